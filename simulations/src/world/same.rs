//! A run in the same place in memory every time. Some hash maps (hashbrown's default hasher) take their seed from
//! addresses, which no interposed call can pin: so the process replaces itself with one without address randomisation,
//! with an empty environment.

use std::{io, os::unix::process::CommandExt, process::Command};

/// Set in the process that runs in the fixed place.
const MARK: &str = "GREYLAG_SIMULATION";

/// Returns in the fixed place only. Errors if the system does not allow it.
pub fn rerun_in_a_fixed_place() -> io::Result<()> {
    if std::env::var_os(MARK).is_some() {
        return Ok(());
    }
    // SAFETY: changes a flag of this process, which takes effect at exec.
    let before = unsafe { libc::personality(libc::ADDR_NO_RANDOMIZE as libc::c_ulong) };
    if before == -1 {
        return Err(io::Error::last_os_error());
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    Err(Command::new("/proc/self/exe").arg0("simulation").args(arguments).env_clear().env(MARK, "1").exec())
}
