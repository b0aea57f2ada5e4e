//! What a caller's credential must be good for, call by call. The scope is checked before anything of a call is done.
//!
//! INVARIANT: what is not known here to be a question about the catalog or a plan needs the scope of a statement, or is
//! refused by the door as nothing that it offers.

use arrow_flight::{Action, Ticket, sql::Command};

use super::{
    ADMIN_ACTION, CANCEL_ACTION, actions::CANCEL_FLIGHT_INFO, door::command, metadata::Question, session_proto,
};
use crate::identity::Need;

/// Flight SQL's own actions on prepared statements, and the one that cancels.
const CREATE_PREPARED: &str = "CreatePreparedStatement";
const CLOSE_PREPARED: &str = "ClosePreparedStatement";
const CANCEL_QUERY: &str = "CancelQuery";

/// To redeem a ticket.
pub(super) fn of_ticket(ticket: &Ticket) -> Need {
    match command(&ticket.ticket) {
        Ok(Command::TicketStatementQuery(_)) | Err(_) => Need::QUERY,
        Ok(asked) if Question::of(asked.clone()).is_some() => Need::DESCRIBE,
        Ok(_) => Need::QUERY,
    }
}

pub(super) fn of_action(action: &Action) -> Need {
    match action.r#type.as_str() {
        ADMIN_ACTION => Need::MANAGE,
        CANCEL_ACTION | CANCEL_FLIGHT_INFO | CANCEL_QUERY => Need::CANCEL,
        CREATE_PREPARED | CLOSE_PREPARED => Need::DESCRIBE,
        session_proto::SET_SESSION_OPTIONS | session_proto::GET_SESSION_OPTIONS | session_proto::CLOSE_SESSION => {
            Need::DESCRIBE
        }
        _ => Need::QUERY,
    }
}
