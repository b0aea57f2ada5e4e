//! Time limits of one statement: when it must end, why it ended, and what to tell the database about it.

use std::time::Duration;

use greylag_protocol::{ErrorCode, MeshError};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Longest label that is put into a statement, characters.
const LABEL_CHARS_MAX: usize = 120;
/// Shortest time limit that is given to a server, milliseconds. The connector itself keeps the exact one.
const SERVER_TIMEOUT_MS_MIN: u64 = 1024;
/// Longest: servers keep it in 31 bits.
const SERVER_TIMEOUT_MS_MAX: u64 = 1 << 30;

/// Stands for no deadline.
const TIMEOUT_MAX: Duration = Duration::from_secs(365 * 86_400);

/// The end of a statement from outside: its deadline, or nobody wanting it any more.
pub(crate) struct Expiry {
    started: Instant,
    deadline: Instant,
    cancel: CancellationToken,
    sleep: std::pin::Pin<Box<Sleep>>,
    cancelled: std::pin::Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Expiry {
    pub(crate) fn new(timeout: Duration, cancel: CancellationToken) -> Self {
        let started = Instant::now();
        // What cannot be counted is as good as no deadline.
        let deadline = started.checked_add(timeout).unwrap_or(started + TIMEOUT_MAX);
        Self {
            started,
            deadline,
            sleep: Box::pin(tokio::time::sleep_until(deadline)),
            cancelled: Box::pin(cancel.clone().cancelled_owned()),
            cancel,
        }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// GL5002 or GL5003, if it is over.
    pub(crate) fn check(&self) -> Option<MeshError> {
        if self.cancel.is_cancelled() {
            Some(MeshError::new(ErrorCode::Cancelled, "the sub-query was cancelled"))
        } else if self.left().is_zero() {
            Some(MeshError::new(ErrorCode::Deadline, "the sub-query's time is over"))
        } else {
            None
        }
    }

    /// The outcome of `work`, or GL5002 / GL5003 if that comes first. `work` is then dropped as it stands.
    pub(crate) async fn bound<T>(&mut self, work: impl Future<Output = Result<T, MeshError>>) -> Result<T, MeshError> {
        tokio::select! {
            biased;
            outcome = work => outcome,
            () = &mut self.cancelled => Err(MeshError::new(ErrorCode::Cancelled, "the sub-query was cancelled")),
            () = &mut self.sleep => Err(MeshError::new(ErrorCode::Deadline, "the sub-query's time is over")),
        }
    }
}

/// A time limit for the server, a net below the connector's own: at least `left`, rounded up to a power of two so that
/// most statements of a connection need the same one, and not above `own_ms`, the limit that the server's owner set
/// (0: none).
pub(crate) fn server_timeout_ms(left: Duration, own_ms: u64) -> u64 {
    let left = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).clamp(SERVER_TIMEOUT_MS_MIN, SERVER_TIMEOUT_MS_MAX);
    let rounded = left.next_power_of_two();
    if own_ms == 0 { rounded } else { rounded.min(own_ms) }
}

/// The label as a comment in front of a statement. Whatever could end the comment is dropped.
pub(crate) fn label_comment(label: &str) -> String {
    let plain: String = label
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':' | ' ' | '@' | '=' | ','))
        .take(LABEL_CHARS_MAX)
        .collect();
    if plain.is_empty() { String::new() } else { format!("/* {plain} */ ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_timeouts_are_powers_of_two_within_the_owners_limit() {
        assert_eq!(server_timeout_ms(Duration::from_millis(1), 0), 1024);
        assert_eq!(server_timeout_ms(Duration::from_secs(30), 0), 32768);
        assert_eq!(server_timeout_ms(Duration::from_secs(30), 5000), 5000);
        assert_eq!(server_timeout_ms(Duration::MAX, 0), 1 << 30);
    }

    #[test]
    fn a_label_cannot_leave_its_comment() {
        assert_eq!(label_comment("q-7 user=ann"), "/* q-7 user=ann */ ");
        assert_eq!(label_comment("*/ DROP TABLE t; /*"), "/*  DROP TABLE t  */ ");
        assert_eq!(label_comment("\u{2028}*/"), "");
        assert!(label_comment(&"x".repeat(1000)).len() < 200);
    }

    #[tokio::test(start_paused = true)]
    async fn work_ends_by_deadline_and_by_cancel() {
        let mut expiry = Expiry::new(Duration::from_secs(1), CancellationToken::new());
        let error = expiry.bound(std::future::pending::<Result<(), _>>()).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::Deadline);
        let token = CancellationToken::new();
        let mut expiry = Expiry::new(Duration::from_secs(1), token.clone());
        token.cancel();
        let error = expiry.bound(std::future::pending::<Result<(), _>>()).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::Cancelled);
        assert_eq!(expiry.check().map(|e| e.code), Some(ErrorCode::Cancelled));
    }
}
