//! `[audit]`: how a node keeps its audit chain.

use std::path::PathBuf;

use greylag_protocol::{ErrorCode, MeshError, Result};
use serde::{Deserialize, Serialize};

/// Least bytes of a file before the next one is begun.
const FILE_BYTES_MIN: u64 = 4 << 10;

/// When a record is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuditMode {
    /// Records are written a moment after the statement has ended; a crash can lose those of that moment. A log that
    /// cannot be written refuses statements.
    #[default]
    Relaxed,
    /// No row leaves before a record of its statement is durable.
    Strict,
    /// Nothing is written.
    Off,
}

impl AuditMode {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Relaxed => "relaxed",
            Self::Strict => "strict",
            Self::Off => "off",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Audit {
    pub mode: AuditMode,
    /// `audit` in the data directory if absent.
    pub dir: Option<PathBuf>,
    /// Size and age after which a new file is begun.
    pub file_bytes_max: u64,
    pub file_age_ms_max: u64,
    /// Days that files are kept, and bytes of all of them together; for ever if absent. What no other node vouches for is
    /// kept in any case.
    pub keep_days: Option<u32>,
    pub keep_bytes_max: Option<u64>,
    /// Between two looks at what the nodes' chains have come to: how long the end of a chain is vouched for by nobody.
    pub heads_ms: u64,
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            mode: AuditMode::default(),
            dir: None,
            file_bytes_max: 64 << 20,
            file_age_ms_max: 24 * 3600 * 1000,
            keep_days: None,
            keep_bytes_max: None,
            heads_ms: 5_000,
        }
    }
}

impl Audit {
    pub(crate) fn validate(&self) -> Result<()> {
        let wrong = |message: String| Err(MeshError::new(ErrorCode::InvalidConfig, message));
        if self.file_bytes_max < FILE_BYTES_MIN {
            return wrong(format!("`audit.file_bytes_max` must be at least {FILE_BYTES_MIN}"));
        }
        let counts = [
            ("file_age_ms_max", self.file_age_ms_max),
            ("heads_ms", self.heads_ms),
            ("keep_days", self.keep_days.map_or(1, u64::from)),
        ];
        if let Some((key, _)) = counts.iter().find(|(_, value)| *value == 0) {
            return wrong(format!("`audit.{key}` must be at least 1"));
        }
        match self.keep_bytes_max {
            Some(keep) if keep < self.file_bytes_max => {
                wrong("`audit.keep_bytes_max` must be at least `audit.file_bytes_max`".into())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_meant_is_refused_by_its_key() {
        Audit::default().validate().unwrap();
        let cases: [(Audit, &str); 5] = [
            (Audit { file_bytes_max: 1, ..Audit::default() }, "file_bytes_max"),
            (Audit { file_age_ms_max: 0, ..Audit::default() }, "file_age_ms_max"),
            (Audit { heads_ms: 0, ..Audit::default() }, "heads_ms"),
            (Audit { keep_days: Some(0), ..Audit::default() }, "keep_days"),
            (Audit { keep_bytes_max: Some(1 << 20), ..Audit::default() }, "keep_bytes_max"),
        ];
        for (audit, key) in cases {
            let error = audit.validate().unwrap_err();
            assert!(error.code == ErrorCode::InvalidConfig && error.message.contains(key), "{error}");
        }
    }
}
