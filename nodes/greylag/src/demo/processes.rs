//! The demo's nodes as operating-system processes: started with a configuration file each, killed without mercy when
//! asked, ended with the demo whatever happens.

use std::{
    fs::File,
    net::UdpSocket,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::Context;
use greylag_config::NodeConfig;

/// One node process.
pub struct NodeProcess {
    pub config: NodeConfig,
    config_file: PathBuf,
    binary: PathBuf,
    environment: Vec<(String, String)>,
    child: Option<Child>,
}

impl NodeProcess {
    /// Writes the configuration beside the data directory; nothing runs yet. `binary` is `greylag` itself.
    pub fn prepare(config: NodeConfig, binary: &Path) -> anyhow::Result<Self> {
        let config_file = config.data_dir.with_extension("toml");
        std::fs::create_dir_all(&config.data_dir)?;
        std::fs::write(&config_file, toml::to_string(&config)?)?;
        Ok(Self { config, config_file, binary: binary.to_owned(), environment: Vec::new(), child: None })
    }

    /// Variables that the process gets besides this one's.
    #[must_use]
    pub fn with_environment(mut self, environment: Vec<(String, String)>) -> Self {
        self.environment = environment;
        self
    }

    pub fn running(&self) -> bool {
        self.child.is_some()
    }

    /// Starts it; its log goes to a file beside its configuration.
    pub fn start(&mut self) -> anyhow::Result<()> {
        let log = File::options().create(true).append(true).open(self.log_file())?;
        let child = Command::new(&self.binary)
            .args(["node", "--config"])
            .arg(&self.config_file)
            .envs(self.environment.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C at a terminal goes to whoever is in the group in front; it is not meant for the nodes.
            .process_group(0)
            .spawn()
            .context("a node could not be started")?;
        self.child = Some(child);
        Ok(())
    }

    pub fn log_file(&self) -> PathBuf {
        self.config_file.with_extension("log")
    }

    /// Why it is not running, if it has ended by itself.
    pub fn ended(&mut self) -> Option<String> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        let log = std::fs::read_to_string(self.log_file()).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(5).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        Some(format!("node `{}` ended ({status}):\n{}", self.config.name, tail.join("\n")))
    }

    /// Process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Resident memory in bytes, as the kernel counts it.
    pub fn resident_bytes(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.as_ref()?.id())).ok()?;
        let line = status.lines().find(|l| l.starts_with("VmRSS:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
    }

    /// SIGKILL: no goodbye, no flush.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// Where `free_port` looks: below the range from which systems take the ports of outgoing connections, any of which could
/// otherwise have it by the time that it is used.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// Ports between the first choices of two processes, so that tests that run at once do not choose the same.
const PORTS_APART: u32 = 16;

/// A port on loopback that nobody has now, for UDP and TCP alike, so that it serves for endpoint or door.
pub fn free_port() -> anyhow::Result<u16> {
    static CHOSEN: AtomicU32 = AtomicU32::new(0);
    for _ in PORTS {
        let choice = std::process::id().wrapping_mul(PORTS_APART).wrapping_add(CHOSEN.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + u16::try_from(choice % PORTS.len() as u32)?;
        let here = ("127.0.0.1", port);
        if UdpSocket::bind(here).is_ok() && std::net::TcpListener::bind(here).is_ok() {
            return Ok(port);
        }
    }
    anyhow::bail!("no free port on loopback")
}

/// Configurations of `count` nodes on loopback that form one mesh by themselves.
pub fn configurations(dir: &Path, count: usize, token: &str) -> anyhow::Result<Vec<NodeConfig>> {
    let mut configs: Vec<NodeConfig> = Vec::with_capacity(count);
    for index in 0..count {
        let name = format!("node{}", index + 1);
        let mut config = NodeConfig { mesh: "demo".into(), expect: u32::try_from(count)?, ..NodeConfig::default() };
        config.data_dir = dir.join(&name);
        config.name = name;
        config.listen = ([127, 0, 0, 1], free_port()?).into();
        config.flight = Some(([127, 0, 0, 1], free_port()?).into());
        config.join_token = Some(token.to_owned());
        configs.push(config);
    }
    let seeds: Vec<String> = configs.iter().map(|c| c.listen.to_string()).collect();
    for config in &mut configs {
        config.seeds.clone_from(&seeds);
    }
    Ok(configs)
}
