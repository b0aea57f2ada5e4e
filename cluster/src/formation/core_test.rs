//! Tables of decisions.

use std::collections::BTreeMap;

use greylag_protocol::{ErrorCode, MeshError, MeshId, NodeUuid, messages::join::Candidate};
use uuid::Uuid;

use super::core::{Answer, Step, Verdict, check_alike, decide, judge, voters};

fn uuid(n: u128) -> NodeUuid {
    NodeUuid(Uuid::from_u128(n))
}

fn candidate(n: u128, expect: u32, knows: &[u128]) -> Candidate {
    Candidate {
        mesh_name: "m".into(),
        expect,
        uuid: uuid(n),
        name: format!("node-{n}"),
        address: format!("10.0.0.{n}:7400"),
        labels: BTreeMap::new(),
        door: None,
        outbound_only: false,
        knows: knows.iter().map(|n| uuid(*n)).collect(),
    }
}

fn step(me: &Candidate, others: &[Candidate], alone: bool) -> Step {
    decide(me, &others.iter().map(|c| (c.uuid, c.clone())).collect(), alone)
}

#[test]
fn the_smallest_of_those_that_agree_founds_and_the_others_follow() {
    let all = [1, 2, 3];
    let nodes = all.map(|n| candidate(n, 3, &all));
    let [one, two, three] = nodes.clone();
    assert_eq!(step(&one, &[two.clone(), three.clone()], false), Step::Found(nodes.to_vec()));
    assert_eq!(step(&two, &[one.clone(), three.clone()], false), Step::Follow(uuid(1)));
    assert_eq!(step(&three, &[one, two], false), Step::Follow(uuid(1)));
}

#[test]
fn nobody_founds_before_all_are_there_and_know_each_other() {
    let one = candidate(1, 3, &[1, 2]);
    let two = candidate(2, 3, &[1, 2]);
    assert_eq!(step(&one, &[], false), Step::WaitForPeers { known: 1 });
    assert_eq!(step(&one, std::slice::from_ref(&two), false), Step::WaitForPeers { known: 2 });
    let one = candidate(1, 3, &[1, 2, 3]);
    let three = candidate(3, 3, &[1, 2, 3]);
    assert_eq!(step(&one, &[two, three], false), Step::WaitForAgreement, "2 does not know 3 yet");
}

#[test]
fn one_node_founds_alone_only_if_it_is_its_own_seed() {
    let one = candidate(1, 1, &[1]);
    assert_eq!(step(&one, &[], true), Step::Found(vec![one.clone()]));
    assert_eq!(step(&one, &[], false), Step::WaitForPeers { known: 1 });
    assert_eq!(step(&one, &[candidate(2, 1, &[1, 2])], false), Step::WaitForPeers { known: 2 });
}

#[test]
fn of_more_nodes_than_expected_the_smallest_form_and_the_rest_is_left_out() {
    let all = [1, 2, 3, 4];
    let nodes = all.map(|n| candidate(n, 3, &all));
    let [one, two, three, four] = nodes.clone();
    let Step::Found(members) = step(&one, &[two.clone(), three.clone(), four.clone()], false) else { panic!() };
    assert_eq!(members.iter().map(|m| m.uuid).collect::<Vec<_>>(), [uuid(1), uuid(2), uuid(3)]);
    assert_eq!(step(&four, &[one, two, three], false), Step::Follow(uuid(1)));
}

#[test]
fn a_node_that_cannot_be_dialled_does_not_found_while_another_can() {
    let all = [1, 2, 3];
    let mut nodes = all.map(|n| candidate(n, 3, &all));
    nodes[0].outbound_only = true;
    let [one, two, three] = nodes.clone();
    assert_eq!(step(&one, &[two.clone(), three.clone()], false), Step::Follow(uuid(2)));
    // Ids still go by uuid.
    assert_eq!(step(&two, &[one, three], false), Step::Found(nodes.to_vec()));
}

#[test]
fn nodes_that_are_configured_differently_do_not_form_together() {
    let ours = candidate(1, 3, &[1]);
    assert_eq!(check_alike(&ours, &candidate(2, 3, &[2])), Ok(()));
    let other_name = Candidate { mesh_name: "other".into(), ..candidate(2, 3, &[2]) };
    for theirs in [candidate(2, 2, &[2]), other_name] {
        assert_eq!(check_alike(&ours, &theirs).unwrap_err().code, ErrorCode::FormationMismatch);
    }
}

fn refused(code: ErrorCode, proven: bool) -> Answer {
    Answer::Refused { error: MeshError::new(code, "no"), proven }
}

fn formed(n: u128) -> Answer {
    Answer::Formed { mesh: MeshId(Uuid::from_u128(n)), members: Vec::new() }
}

fn silent() -> Answer {
    Answer::Silent(MeshError::new(ErrorCode::PeerUnreachable, "nobody there"))
}

fn fresh(n: u128) -> Answer {
    Answer::Fresh(uuid(n))
}

/// What `judge` comes to, as the code it fails with, the mesh it joins, or nothing.
fn verdict(answers: &[Option<Answer>]) -> Result<Option<u128>, ErrorCode> {
    match judge(uuid(1), answers.iter().map(Option::as_ref)) {
        Verdict::Join { mesh } => Ok(Some(mesh.0.as_u128())),
        Verdict::Fail(error) => Err(error.code),
        Verdict::None => Ok(None),
    }
}

#[test]
fn answers_are_weighed() {
    use ErrorCode::{FormationMismatch, JoinTokenSpent, JoinTokenWrong, NoLeader};
    let wrong = || Some(refused(JoinTokenWrong, false));
    for (name, answers, expected) in [
        ("nobody heard yet", vec![None, None], Ok(None)),
        ("nobody there", vec![Some(silent()), Some(silent())], Ok(None)),
        ("all fresh", vec![Some(fresh(1)), Some(fresh(2))], Ok(None)),
        ("a mesh", vec![Some(fresh(2)), Some(formed(7)), None], Ok(Some(7))),
        ("a mesh twice", vec![Some(formed(7)), Some(formed(7))], Ok(Some(7))),
        ("two meshes", vec![Some(formed(7)), Some(formed(8))], Err(FormationMismatch)),
        ("a stray refusal beside a mesh", vec![wrong(), Some(formed(7))], Ok(Some(7))),
        ("a stray refusal beside a friend", vec![wrong(), Some(fresh(2))], Ok(None)),
        ("a refusal and only ourselves", vec![wrong(), Some(fresh(1))], Err(JoinTokenWrong)),
        ("a refusal and silence", vec![wrong(), Some(silent())], Err(JoinTokenWrong)),
        ("a refusal and one to hear", vec![wrong(), None], Ok(None)),
        (
            "a proven refusal beside a friend",
            vec![Some(refused(JoinTokenSpent, true)), Some(fresh(2)), None],
            Err(JoinTokenSpent),
        ),
        ("a refusal that passes", vec![Some(refused(NoLeader, true))], Ok(None)),
    ] {
        assert_eq!(verdict(&answers), expected, "{name}");
    }
}

#[test]
fn an_odd_number_votes_and_never_more_than_there_are() {
    assert_eq!([1, 2, 3, 4, 5, 6, 100].map(voters), [1, 1, 3, 3, 5, 5, 5]);
}
