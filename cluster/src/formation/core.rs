//! What a node without a mesh does next. Pure: answers and candidates in, a decision out.

use std::collections::{BTreeMap, BTreeSet};

use greylag_protocol::{ErrorCode, MeshError, MeshId, NodeUuid, messages::join::Candidate};

/// The last word of one seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// No mesh there either.
    Fresh(NodeUuid),
    /// A mesh, and addresses of its members.
    Formed { mesh: MeshId, members: Vec<String> },
    /// `proven` if the seed has shown that it knows the token: then the refusal is the mesh's own.
    Refused { error: MeshError, proven: bool },
    /// No answer, or none that could be understood.
    Silent(MeshError),
}

/// What the seeds' answers come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Enrol in this mesh.
    Join { mesh: MeshId },
    /// It cannot come to anything.
    Fail(MeshError),
    /// No mesh so far.
    None,
}

/// Weighs the answers of all seeds; `None` for one that has not been heard out yet. `me` may be among them.
pub(super) fn judge<'a>(me: NodeUuid, answers: impl Iterator<Item = Option<&'a Answer>>) -> Verdict {
    let (mut meshes, mut proven, mut doubtful) = (BTreeSet::new(), None, None);
    let (mut all_heard, mut some_agree) = (true, false);
    for answer in answers {
        match answer {
            None => all_heard = false,
            Some(Answer::Formed { mesh, .. }) => {
                meshes.insert(*mesh);
            }
            Some(Answer::Refused { error, .. }) if !is_final(error) => {}
            Some(Answer::Refused { error, proven: true }) => proven = proven.or(Some(error)),
            Some(Answer::Refused { error, proven: false }) => doubtful = doubtful.or(Some(error)),
            Some(Answer::Fresh(uuid)) => some_agree |= *uuid != me,
            Some(Answer::Silent(_)) => {}
        }
    }
    let mut meshes = meshes.into_iter();
    match (meshes.next(), meshes.next()) {
        (Some(_), Some(_)) => {
            Verdict::Fail(MeshError::new(ErrorCode::FormationMismatch, "the seeds belong to different meshes"))
        }
        (Some(mesh), None) => Verdict::Join { mesh },
        // A refusal without proof may come from a stray neighbour. It counts once everybody has been heard and nobody
        // is for us.
        (None, _) => match (proven, doubtful) {
            (Some(error), _) => Verdict::Fail(error.clone()),
            (None, Some(error)) if all_heard && !some_agree => Verdict::Fail(error.clone()),
            _ => Verdict::None,
        },
    }
}

/// Whether asking again can never help.
pub(super) fn is_final(error: &MeshError) -> bool {
    use ErrorCode::*;
    matches!(
        error.code,
        JoinTokenWrong
            | JoinTokenExpired
            | JoinTokenSpent
            | FormationMismatch
            | ForeignCertificate
            | ProtocolVersion
            | ProposalRefused
            | InvalidConfig
    )
}

/// What to do where there is no mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Found it with these, this node among them, in order of id.
    Found(Vec<Candidate>),
    /// Another will found it: go on asking until it has.
    Follow(NodeUuid),
    /// Fewer nodes than expected have been heard of.
    WaitForPeers { known: usize },
    /// Enough are there, but not all of them know that yet.
    WaitForAgreement,
}

/// Decides from who has been heard of lately, this node not among them. `alone` says that every seed is this node.
pub(super) fn decide(me: &Candidate, known: &BTreeMap<NodeUuid, Candidate>, alone: bool) -> Step {
    let all: BTreeMap<NodeUuid, &Candidate> =
        known.iter().map(|(uuid, candidate)| (*uuid, candidate)).chain([(me.uuid, me)]).collect();
    let expect = me.expect as usize;
    // With `expect = 1` and foreign seeds a node is a joiner: a mesh that cannot be reached now is no reason to found
    // another.
    if all.len() < expect || (expect == 1 && !alone) {
        return Step::WaitForPeers { known: all.len() };
    }
    let mut chosen: Vec<&Candidate> = all.values().copied().collect();
    // Those that can be dialled first: one of them must found, and more of them can vote.
    chosen.sort_by_key(|candidate| (candidate.outbound_only, candidate.uuid));
    chosen.truncate(expect);
    let uuids: Vec<NodeUuid> = all.keys().copied().collect();
    if chosen.iter().any(|candidate| candidate.knows != uuids) {
        return Step::WaitForAgreement;
    }
    match chosen.first() {
        Some(founder) if founder.uuid == me.uuid => {
            let mut members: Vec<Candidate> = chosen.into_iter().cloned().collect();
            members.sort_by_key(|candidate| candidate.uuid);
            Step::Found(members)
        }
        Some(founder) => Step::Follow(founder.uuid),
        None => Step::WaitForPeers { known: 0 },
    }
}

/// Whether two fresh nodes can form a mesh together. GL4010 if not.
pub(super) fn check_alike(ours: &Candidate, theirs: &Candidate) -> Result<(), MeshError> {
    check_name(&ours.mesh_name, theirs)?;
    if ours.expect != theirs.expect {
        let message = format!(
            "node `{}` has `expect` = {}, node `{}` has {}",
            ours.name, ours.expect, theirs.name, theirs.expect
        );
        return Err(MeshError::new(ErrorCode::FormationMismatch, message));
    }
    Ok(())
}

/// Whether a candidate means this mesh. GL4010 if not.
pub(super) fn check_name(name: &str, theirs: &Candidate) -> Result<(), MeshError> {
    if name != theirs.mesh_name {
        let message = format!("this is mesh `{name}`, node `{}` wants mesh `{}`", theirs.name, theirs.mesh_name);
        return Err(MeshError::new(ErrorCode::FormationMismatch, message));
    }
    Ok(())
}

/// How many of the founding members vote.
pub(super) fn voters(members: usize) -> usize {
    match members {
        0..=2 => 1,
        3..=4 => 3,
        _ => 5,
    }
}
