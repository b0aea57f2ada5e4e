//! The audit chain: what was asked, decided and given, one record each, hashed to the one before it.
//!
//! Every node keeps a chain of its own: NDJSON segments in a folder, written by [`AuditLog`] and proven by
//! [`verify`](verify::verify) from copies, without a mesh. The last record of each chain is committed to the replicated
//! log now and then, and every node writes down the others' ([`HeadsRecord`]): so whoever rewrites one chain contradicts
//! the files of the others.
//!
//! A chain proves order and completeness, not truth: what is written is what the node said. What no other node has
//! vouched for yet can be cut off without being found, and a verification says from where on that is.
//!
//! INVARIANT: a record is acknowledged only when it is durable, and nothing acknowledged is ever taken back.

mod cut;
#[cfg(test)]
mod fixture;
mod line;
mod log;
#[cfg(test)]
mod log_test;
mod memory;
mod open;
mod record;
mod segment;
mod storage;
pub mod verify;

pub use cut::{RECORD_BYTES_MAX, STATEMENT_BYTES_MAX};
pub use line::{Chain, FORMAT, Line, RecordHash};
pub use log::{AuditLog, BATCH_RECORDS_MAX, Retention, Rotation};
pub use memory::{Ills, MemoryStorage};
pub use open::Opening;
pub use record::{
    AuditRecord, Began, ChangeRecord, ClosedRecord, DecisionRecord, HEADS_MAX, HeadSeen, HeadsRecord, HiddenRead,
    MaskRead, NoticeRead, OpenedRecord, Outcome, RetiredRecord, RowsRead, SegmentRecord, SourceRead, StatementFacts,
    StatementRecord, StepTime, TableRead, Verdict, Who,
};
pub use segment::{Ending, Entries, Entry, segment_files};
pub use storage::{AuditFiles, AuditStorage, Folder};
