//! One node of the mesh as a process in its own namespace, with its log on a small disk of its own and a wall clock that
//! can be moved.

use std::{
    fs::File,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context;
use greylag_config::NodeConfig;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::net::{Network, Place, run};

/// Size of a node's disk, for its log, its snapshots and what queries spill.
const DISK_MIB: u64 = 96;
/// Where Debian has the library that fakes wall clocks.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
/// The file that fills the disk.
const BALLAST: &str = "ballast";
/// Pause between two looks at a process.
const LOOK: Duration = Duration::from_millis(20);

pub struct NodeProcess {
    pub config: NodeConfig,
    index: usize,
    binary: PathBuf,
    file: PathBuf,
    environment: Vec<(String, String)>,
    child: Option<Child>,
    /// Ended by us; whoever ends otherwise has died of something.
    pub wanted: bool,
}

impl NodeProcess {
    /// Makes the disk and writes the configuration; nothing runs yet.
    pub fn prepare(
        config: NodeConfig,
        index: usize,
        binary: &Path,
        mut environment: Vec<(String, String)>,
    ) -> anyhow::Result<Self> {
        let file = config.data_dir.with_extension("toml");
        std::fs::create_dir_all(&config.data_dir)?;
        let disk = config.data_dir.as_os_str();
        let size = format!("size={DISK_MIB}m");
        run(std::process::Command::new("mount").args(["-t", "tmpfs", "-o", &size, "greylag-chaos"]).arg(disk))?;
        std::fs::write(&file, toml::to_string(&config)?)?;
        if has_clock() {
            let clock = config.data_dir.with_extension("clock");
            std::fs::write(&clock, "+0\n")?;
            let settings = [
                ("LD_PRELOAD", FAKETIME),
                ("FAKETIME_TIMESTAMP_FILE", &*clock.to_string_lossy()),
                ("FAKETIME_CACHE_DURATION", "1"),
                ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
                ("FAKETIME_DISABLE_SHM", "1"),
                ("NO_FAKE_STAT", "1"),
            ];
            environment.extend(settings.map(|(key, value)| (key.to_owned(), value.to_owned())));
        }
        Ok(Self { config, index, binary: binary.to_owned(), file, environment, child: None, wanted: false })
    }

    pub fn start(&mut self, network: &Network) -> anyhow::Result<()> {
        let log = File::options().create(true).append(true).open(self.log_file())?;
        let child = network
            .command(Place::Node(self.index), &self.binary)
            .args(["node", "--config"])
            .arg(&self.file)
            .envs(self.environment.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .context("a node could not be started")?;
        self.child = Some(child);
        self.wanted = true;
        Ok(())
    }

    pub fn log_file(&self) -> PathBuf {
        self.file.with_extension("log")
    }

    /// How it ended, if it did so by itself.
    pub fn died(&mut self) -> Option<String> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        self.child = None;
        Some(format!("`{}` ended by itself ({status})", self.config.name))
    }

    pub fn runs(&self) -> bool {
        self.child.is_some()
    }

    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let child = self.child.as_ref().context("the node does not run")?;
        Ok(kill(Pid::from_raw(child.id().try_into()?), signal)?)
    }

    /// SIGKILL, also while it is stopped.
    pub fn kill(&mut self) {
        self.wanted = false;
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Sends SIGTERM. The process is then waited for with `gone`.
    pub fn terminate(&mut self) -> anyhow::Result<()> {
        self.wanted = false;
        self.signal(Signal::SIGTERM)
    }

    /// Whether it has ended after `terminate`.
    pub fn gone(&mut self) -> anyhow::Result<bool> {
        let Some(child) = self.child.as_mut() else { return Ok(true) };
        let gone = child.try_wait()?.is_some();
        if gone {
            self.child = None;
        }
        Ok(gone)
    }

    /// Moves the node's wall clock to so many seconds from the true one.
    pub fn set_clock(&self, seconds: i64) -> anyhow::Result<()> {
        let clock = self.config.data_dir.with_extension("clock");
        // Read while it is written, a file with half a number would be another time.
        let partial = clock.with_extension("partial");
        std::fs::write(&partial, format!("{seconds:+}\n"))?;
        Ok(std::fs::rename(partial, clock)?)
    }

    /// Takes every free byte of the node's disk.
    pub fn fill_disk(&self) -> anyhow::Result<u64> {
        use std::io::Write;
        let mut ballast = File::options().create(true).append(true).open(self.config.data_dir.join(BALLAST))?;
        let mut written = 0;
        for size in [1 << 20, 4096, 1] {
            let block = vec![0_u8; size];
            while ballast.write_all(&block).is_ok() {
                written += size as u64;
            }
        }
        Ok(written)
    }

    pub fn free_disk(&self) -> anyhow::Result<()> {
        Ok(std::fs::remove_file(self.config.data_dir.join(BALLAST))?)
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        self.kill();
        let _ = run(std::process::Command::new("umount").arg("-l").arg(&self.config.data_dir));
    }
}

/// Whether wall clocks can be moved on this machine.
pub fn has_clock() -> bool {
    Path::new(FAKETIME).is_file()
}

/// Waits for a condition that nothing tells of.
pub async fn until(within: Duration, mut condition: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<bool> {
    let started = Instant::now();
    while !condition()? {
        if started.elapsed() >= within {
            return Ok(false);
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(true)
}
