//! Registers as clients at doors ask for them. A call whose answer was lost is repeated at another door as the same
//! request, so that a change made twice would be seen.

use std::{sync::Arc, time::Duration};

use greylag_node::cli::Connection;
use greylag_protocol::{
    ErrorCode, MeshError,
    state::{RegisterExpect, RegisterOp, RegisterRequest},
    statement::{AdminCall, AdminReply, SessionOptions},
};
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::{
    linear::{Call, Reply},
    registers::{Registers, Told},
    report::Ledger,
    schedule::NODES,
    stage::door,
};

/// Tries of one operation.
const TRIES: usize = 4;
const PAUSE: Duration = Duration::from_millis(150);
/// Longest wait for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(6);
/// Doors between those of two clients.
const APART: usize = 2;

pub struct Doors {
    token: String,
    ledger: Arc<Ledger>,
    clients: Vec<Mutex<Client>>,
}

#[derive(Default)]
struct Client {
    /// To the client's own door.
    connection: Option<Connection>,
    /// The latest version that this client has seen of anything.
    seen: u64,
}

impl Doors {
    pub fn new(token: &str, ledger: Arc<Ledger>) -> Arc<Self> {
        let clients = (0..NODES).map(|_| Mutex::default()).collect();
        Arc::new(Self { token: token.to_owned(), ledger, clients })
    }

    /// One try. The flag says whether anything was sent.
    async fn once(&self, client: &mut Client, place: usize, home: bool, call: &AdminCall) -> (bool, Answer) {
        let kept = if home { client.connection.take() } else { None };
        let connection = match kept {
            Some(connection) => connection,
            None => {
                let address = door(place).to_string();
                match Connection::with_options(&address, &self.token, SessionOptions::default()).await {
                    Ok(connection) => connection,
                    Err(error) => return (false, Err(error)),
                }
            }
        };
        let asked = tokio::time::timeout(ANSWER_MAX, connection.admin(call)).await;
        let answer = match asked {
            Ok(Ok(AdminReply::Register { version, value })) => Ok((version, value)),
            Ok(Ok(other)) => Err(MeshError::internal(format!("an unexpected answer: {other:?}"))),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(MeshError::new(ErrorCode::Deadline, "no answer in time")),
        };
        if home && answer.is_ok() {
            client.connection = Some(connection);
        }
        (true, answer)
    }
}

/// Version and value.
type Answer = Result<(u64, Option<String>), MeshError>;

impl Registers for Doors {
    async fn ask(&self, client: usize, key: &str, call: Call) -> Told {
        let mut own = self.clients[client % NODES].lock().await;
        let request = RegisterRequest { id: Uuid::new_v4(), after: own.seen };
        let (asked, mut sent) = (admin_call(key, call, request), false);
        for attempt in 0..TRIES {
            let place = (client * APART + attempt * (1 + APART)) % NODES;
            let (was_sent, answer) = self.once(&mut own, place, attempt == 0, &asked).await;
            let before = sent;
            sent |= was_sent;
            match answer {
                Ok((version, value)) => {
                    own.seen = own.seen.max(version);
                    self.ledger.count(|counts| counts.registers_answered += 1);
                    return told(call, value.as_deref());
                }
                Err(error) if error.code == ErrorCode::VersionConflict && is_comparison(call) => {
                    self.ledger.count(|counts| counts.registers_answered += 1);
                    // An earlier try of it may be on its way still, and find the value as expected.
                    return if before { Told::NotKnown } else { Told::Known(Reply::Refused) };
                }
                Err(error) => {
                    let code = error.code.to_string();
                    self.ledger.count(|counts| *counts.registers_retried.entry(code).or_default() += 1);
                    if !error.is_retryable() && error.code != ErrorCode::Deadline {
                        let what = format!("{call:?} of {key} at node{}: {error}", place + 1);
                        self.ledger.offence("unexpected", &what, |counts| counts.unexpected += 1);
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
        if sent { Told::NotKnown } else { Told::NotMade }
    }
}

fn is_comparison(call: Call) -> bool {
    matches!(call, Call::CompareAndSet { .. })
}

fn admin_call(key: &str, call: Call, request: RegisterRequest) -> AdminCall {
    let op = match call {
        Call::Read => return AdminCall::ReadRegister { name: key.to_owned() },
        Call::Write(value) => RegisterOp::Write { value: value.to_string() },
        Call::CompareAndSet { expect, new } => {
            RegisterOp::CompareAndSet { expect: RegisterExpect::Value(expect.to_string()), value: new.to_string() }
        }
        Call::Add(delta) => RegisterOp::Add { delta },
    };
    AdminCall::ChangeRegister { name: key.to_owned(), op, request: Some(request) }
}

fn told(call: Call, value: Option<&str>) -> Told {
    let value = value.and_then(|digits| digits.parse().ok());
    Told::Known(match call {
        Call::Read | Call::Add(_) => Reply::Value(value),
        Call::Write(_) | Call::CompareAndSet { .. } => Reply::Done,
    })
}
