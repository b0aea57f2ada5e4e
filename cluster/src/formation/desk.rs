//! Answering nodes that are not members. What is said depends on how far this node itself has come.

use std::sync::{Arc, RwLock};

use async_trait::async_trait;
use greylag_protocol::{
    ErrorCode, MeshError,
    messages::{
        authority::{AuthorityReply, AuthorityRequest},
        join::{JOIN_VERSION, JoinBody, JoinReply, JoinReplyBody, JoinRequest, JoinToken},
    },
};

use super::{Admissions, FoundingDesk, core, roster::Roster};
use crate::{
    identity::proof::{Channel, Side},
    transport::Joins,
};

/// How far this node has come.
#[derive(Clone)]
pub(super) enum Stage {
    /// Without a token or a mesh: nobody can be answered.
    Closed,
    /// Looking for others.
    Fresh {
        token: Arc<JoinToken>,
        roster: Arc<Roster>,
    },
    /// Founding.
    Founding(Arc<FoundingDesk>),
    Member(Arc<Admissions>),
}

pub(crate) struct JoinDesk {
    stage: RwLock<Stage>,
}

impl JoinDesk {
    pub(crate) fn new() -> Self {
        Self { stage: RwLock::new(Stage::Closed) }
    }

    pub(super) fn look_for_others(&self, token: Arc<JoinToken>, roster: Arc<Roster>) {
        self.set(Stage::Fresh { token, roster });
    }

    pub(crate) fn found(&self, desk: Arc<FoundingDesk>) {
        self.set(Stage::Founding(desk));
    }

    pub(crate) fn admit(&self, admissions: Arc<Admissions>) {
        self.set(Stage::Member(admissions));
    }

    fn set(&self, stage: Stage) {
        *self.stage.write().unwrap_or_else(std::sync::PoisonError::into_inner) = stage;
    }

    fn stage(&self) -> Stage {
        self.stage.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl Joins for JoinDesk {
    async fn answer(&self, request: JoinRequest, channel: Channel) -> JoinReply {
        if request.version != JOIN_VERSION {
            let message = format!("version {} of the join protocol is not spoken here", request.version);
            return unproven(MeshError::new(ErrorCode::ProtocolVersion, message));
        }
        let stage = self.stage();
        let secret = match &stage {
            Stage::Closed => Err(MeshError::new(ErrorCode::NoLeader, "the node is starting")),
            Stage::Fresh { token, .. } if token.id == request.token_id => Ok(token.secret.clone()),
            Stage::Fresh { .. } => Err(wrong_token()),
            Stage::Founding(desk) => desk.secret(&request.token_id).ok_or_else(wrong_token),
            Stage::Member(admissions) => admissions.secret(&request.token_id).await,
        };
        let secret = match secret {
            Ok(secret) if channel.check(&secret, Side::Joiner, &request.proof) => secret,
            Ok(_) => return unproven(wrong_token()),
            Err(error) => return unproven(error),
        };
        let body = match stage {
            Stage::Closed => JoinReplyBody::Refused(wrong_token()),
            Stage::Fresh { roster, .. } => greet(&roster, request.body),
            Stage::Founding(desk) => desk.answer(request.body).await,
            Stage::Member(admissions) => admissions.answer(&request.token_id, request.body).await,
        };
        if let JoinReplyBody::Refused(error) = &body {
            tracing::warn!(token = %request.token_id, %error, "a node was not let in");
        }
        JoinReply { version: JOIN_VERSION, proof: channel.prove(&secret, Side::Seed), body }
    }

    async fn renew(&self, request: AuthorityRequest) -> AuthorityReply {
        match self.stage() {
            Stage::Member(admissions) => admissions.authority.answer_stranger(request).await,
            _ => AuthorityReply::NotKept,
        }
    }
}

fn greet(roster: &Roster, body: JoinBody) -> JoinReplyBody {
    let (JoinBody::Hello(candidate) | JoinBody::Enrol { candidate, .. }) = body;
    if let Err(error) = core::check_alike(&roster.me(), &candidate) {
        return JoinReplyBody::Refused(error);
    }
    roster.hear(candidate);
    JoinReplyBody::Fresh { me: roster.me(), others: roster.to_pass_on() }
}

fn wrong_token() -> MeshError {
    MeshError::new(ErrorCode::JoinTokenWrong, "the join token is not known here, or its secret is wrong")
}

/// A refusal of the token itself: there is no secret in common to prove anything with.
fn unproven(error: MeshError) -> JoinReply {
    tracing::warn!(%error, "a node was not let in");
    JoinReply { version: JOIN_VERSION, proof: [0; 32], body: JoinReplyBody::Refused(error) }
}
