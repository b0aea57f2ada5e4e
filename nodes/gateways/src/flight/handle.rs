//! What a client keeps of a statement in the background: text that any door of the mesh understands, for as long as the
//! job may be asked for.

use std::{fmt, str::FromStr};

use arrow_flight::{FlightDescriptor, FlightEndpoint, FlightInfo, PollInfo, Ticket};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use greylag_protocol::{ErrorCode, MeshError, Result};

/// As [`fmt::Display`] writes it, [`FromStr`] reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobHandle(Bytes);

impl JobHandle {
    /// From the answer to the first poll.
    pub(super) fn of(begun: &PollInfo) -> Result<Self> {
        let of_info = begun.info.as_ref().and_then(|info| info.flight_descriptor.as_ref());
        let descriptor = begun.flight_descriptor.as_ref().or(of_info);
        let descriptor = descriptor.ok_or_else(|| MeshError::internal("the door has given no handle"))?;
        Ok(Self(descriptor.cmd.clone()))
    }

    pub(super) fn descriptor(&self) -> FlightDescriptor {
        FlightDescriptor::new_cmd(self.0.clone())
    }

    /// A flight info of the job's ticket alone, to cancel it by.
    pub(super) fn info(&self) -> FlightInfo {
        FlightInfo::new().with_endpoint(FlightEndpoint::new().with_ticket(Ticket::new(self.0.clone())))
    }
}

impl fmt::Display for JobHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(&self.0))
    }
}

impl FromStr for JobHandle {
    type Err = MeshError;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |_| MeshError::new(ErrorCode::InvalidStatement, "this is not the handle of a job");
        URL_SAFE_NO_PAD.decode(text.trim()).map(|bytes| Self(bytes.into())).map_err(wrong)
    }
}
