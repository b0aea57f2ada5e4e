//! Commands about registers.
//!
//! INVARIANT: a request is applied once. Either it is among the changes remembered, or so few changes have followed
//! since it was made up that it would be, had it been applied. A request that is older than that is refused, and whether
//! it has been applied is not known.

use greylag_protocol::{
    ErrorCode, MeshError, Result,
    state::{ControlState, RecentChange, Register, RegisterExpect, RegisterOp, RegisterRequest},
};

use super::{
    REGISTER_CHANGES_REMEMBERED, REGISTER_NAME_BYTES_MAX, REGISTER_VALUE_BYTES_MAX, REGISTERS_MAX,
    apply::{Change, refused},
};

pub(super) fn change(
    state: &mut ControlState,
    name: &str,
    op: &RegisterOp,
    request: &RegisterRequest,
) -> Result<Change> {
    let registers = &mut state.registers;
    if let Some((version, made)) = registers.recent.iter().find(|(_, recent)| recent.request == request.id) {
        return Ok(Change::Register { version: *version, value: after(op, made.sum) });
    }
    if registers.changes.saturating_sub(request.after) > REGISTER_CHANGES_REMEMBERED as u64 {
        let message = "registers have changed so often since this was asked for that it may have been made already";
        return Err(MeshError::new(ErrorCode::NoLeader, message));
    }
    check_name(name)?;
    let known = registers.values.get(name);
    if known.is_none() && matches!(op, RegisterOp::Remove) {
        return Ok(Change::Register { version: 0, value: None });
    }
    if known.is_none() && registers.values.len() >= REGISTERS_MAX {
        return Err(refused(format!("the mesh has {REGISTERS_MAX} registers and takes no more; remove some")));
    }
    let sum = match op {
        RegisterOp::Add { delta } => Some(sum(name, known, *delta)?),
        RegisterOp::CompareAndSet { expect, .. } => expected(name, known, expect).map(|()| None)?,
        RegisterOp::Write { .. } | RegisterOp::Remove => None,
    };
    let value = after(op, sum);
    check_value(name, value.as_deref().unwrap_or_default())?;
    registers.changes += 1;
    let version = registers.changes;
    match value.clone() {
        Some(value) => registers.values.insert(name.to_owned(), Register { value, version }),
        None => registers.values.remove(name),
    };
    registers.recent.insert(version, RecentChange { request: request.id, sum });
    while registers.recent.len() > REGISTER_CHANGES_REMEMBERED {
        registers.recent.pop_first();
    }
    Ok(Change::Register { version, value })
}

/// What the register holds once this is done.
fn after(op: &RegisterOp, sum: Option<i64>) -> Option<String> {
    match op {
        RegisterOp::Write { value } | RegisterOp::CompareAndSet { value, .. } => Some(value.clone()),
        RegisterOp::Add { .. } => sum.map(|sum| sum.to_string()),
        RegisterOp::Remove => None,
    }
}

fn sum(name: &str, known: Option<&Register>, delta: i64) -> Result<i64> {
    let before = match known {
        None => 0,
        Some(register) => {
            register.value.parse::<i64>().map_err(|_| refused(format!("register `{name}` holds no number")))?
        }
    };
    before.checked_add(delta).ok_or_else(|| refused(format!("register `{name}` would leave the range of 64 bits")))
}

fn expected(name: &str, known: Option<&Register>, expect: &RegisterExpect) -> Result<()> {
    let conflict = |message: String| Err(MeshError::new(ErrorCode::VersionConflict, message));
    let version = known.map_or(0, |register| register.version);
    match expect {
        RegisterExpect::Version(expected) if *expected != version => {
            conflict(format!("register `{name}` is at version {version}, not {expected}"))
        }
        RegisterExpect::Value(expected) if known.map(|register| &register.value) != Some(expected) => {
            conflict(format!("register `{name}` holds another value, at version {version}"))
        }
        _ => Ok(()),
    }
}

fn check_name(name: &str) -> Result<()> {
    if name.is_empty() || name.len() > REGISTER_NAME_BYTES_MAX || name.chars().any(char::is_control) {
        let message = format!("a register's name is 1 to {REGISTER_NAME_BYTES_MAX} bytes of text");
        return Err(MeshError::new(ErrorCode::InvalidResource, message));
    }
    Ok(())
}

fn check_value(name: &str, value: &str) -> Result<()> {
    if value.len() > REGISTER_VALUE_BYTES_MAX {
        let message = format!("the value of register `{name}` is over {REGISTER_VALUE_BYTES_MAX} bytes");
        return Err(MeshError::new(ErrorCode::InvalidResource, message));
    }
    Ok(())
}
