//! Step 5: credits set aside in the quotas that the statement is charged to, with its estimate; and the till at which it
//! pays for what it has used (step 12).

use greylag_governance::quota::Usage;
use greylag_protocol::Result;

/// Where one statement pays.
#[derive(Debug, Clone, Default)]
pub struct Till {}

impl Till {
    pub async fn pay(&mut self, _usage: &Usage) -> Result<()> {
        Ok(())
    }
}
