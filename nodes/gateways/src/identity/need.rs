//! What a credential must be good for, so that a call may be made with it. A credential without scopes is good for all;
//! whether its principal may do what the call asks is policy's to say.

use greylag_governance::identity::key;
use greylag_protocol::{Result, principal::Principal, state::Scope};

/// Scopes of which one is enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need(&'static [Scope]);

impl Need {
    /// To see catalogs, schemas and plans. Who may run statements sees no less.
    pub const DESCRIBE: Self = Self(&[Scope::Describe, Scope::Query]);
    /// To run statements.
    pub const QUERY: Self = Self(&[Scope::Query]);
    /// To stop them.
    pub const CANCEL: Self = Self(&[Scope::Query, Scope::Manage]);
    /// To change resources, keys and membership.
    pub const MANAGE: Self = Self(&[Scope::Manage]);

    /// GL2007, naming the first of the scopes, if the principal's credential has none of them.
    pub fn check(self, principal: &Principal) -> Result<()> {
        let mut missing = Ok(());
        for scope in self.0 {
            match key::require(principal, *scope) {
                Ok(()) => return Ok(()),
                Err(error) => missing = missing.and(Err(error)),
            }
        }
        missing
    }
}
