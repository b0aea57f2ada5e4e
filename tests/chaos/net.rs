//! The network of a run: a namespace with a bridge, one for each node, one for each database, one for the clients. In
//! each node's namespace nftables drops what the faults of the moment say.
//!
//! INVARIANT: all names carry the run's process id, and nothing is made in the machine's own namespace: two runs do not
//! meet, and what a dead run has left is known by its name.

use std::{
    collections::BTreeSet,
    io::Write,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::Context;

use crate::schedule::NODES;

/// Names of all namespaces of all runs begin so.
const PREFIX: &str = "glchaos";
/// Where `ip netns` keeps them.
const NAMESPACES: &str = "/run/netns";
/// Bytes that may be sent at once under a limit of bandwidth.
const BURST_KIB: u32 = 64;

pub struct Network {
    run: u32,
}

/// What a node's packets suffer now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Suffering {
    /// Packets from these addresses are dropped.
    pub deaf_to: BTreeSet<Ipv4Addr>,
    /// Share of the arriving packets that is dropped.
    pub loss_percent: u32,
    /// What may be sent in a second; 0 is no limit.
    pub kib_per_s: u32,
}

/// A place in the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Node(usize),
    Postgres,
    Mariadb,
    Clients,
}

impl Place {
    pub fn all() -> impl Iterator<Item = Self> {
        (0..NODES).map(Self::Node).chain([Self::Postgres, Self::Mariadb, Self::Clients])
    }

    fn name(self) -> String {
        match self {
            Self::Node(index) => format!("n{}", index + 1),
            Self::Postgres => "pg".into(),
            Self::Mariadb => "my".into(),
            Self::Clients => "cl".into(),
        }
    }

    pub fn address(self) -> Ipv4Addr {
        let last = match self {
            Self::Node(index) => 11 + index as u8,
            Self::Postgres => 101,
            Self::Mariadb => 102,
            Self::Clients => 201,
        };
        Ipv4Addr::new(10, 77, 0, last)
    }
}

impl Network {
    pub fn new() -> anyhow::Result<Self> {
        let network = Self { run: std::process::id() };
        let hub = network.name("hub");
        ip(&["netns", "add", &hub])?;
        ip(&["-n", &hub, "link", "add", "name", "bridge0", "type", "bridge"])?;
        ip(&["-n", &hub, "link", "set", "bridge0", "up"])?;
        for place in Place::all() {
            let (name, space) = (place.name(), network.namespace(place));
            ip(&["netns", "add", &space])?;
            ip(&["-n", &space, "link", "set", "lo", "up"])?;
            ip(&[
                "link", "add", "name", &name, "netns", &hub, "type", "veth", "peer", "name", "eth0", "netns", &space,
            ])?;
            ip(&["-n", &hub, "link", "set", &name, "master", "bridge0", "up"])?;
            ip(&["-n", &space, "addr", "add", &format!("{}/24", place.address()), "dev", "eth0"])?;
            ip(&["-n", &space, "link", "set", "eth0", "up"])?;
        }
        Ok(network)
    }

    /// Whether there can be namespaces here at all.
    pub fn try_one() -> anyhow::Result<()> {
        let probe = Self { run: std::process::id() };
        ip(&["netns", "add", &probe.name("probe")])
    }

    fn name(&self, what: &str) -> String {
        format!("{PREFIX}{}-{what}", self.run)
    }

    fn namespace(&self, place: Place) -> String {
        self.name(&place.name())
    }

    /// The namespace as a file, to enter it.
    pub fn file(&self, place: Place) -> PathBuf {
        Path::new(NAMESPACES).join(self.namespace(place))
    }

    /// A command that runs there; the process keeps its id.
    pub fn command(&self, place: Place, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.file(place).display())).arg("--").arg(program);
        command
    }

    /// Has a node's packets suffer this from now on, and nothing else.
    pub fn set(&self, node: usize, suffering: &Suffering) -> anyhow::Result<()> {
        let mut child = self
            .command(Place::Node(node), Path::new("nft"))
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        child.stdin.take().context("no standard input")?.write_all(rules(suffering).as_bytes())?;
        let output = child.wait_with_output()?;
        anyhow::ensure!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in namespaces(&format!("{PREFIX}{}-", self.run)) {
            let _ = ip(&["netns", "del", &name]);
        }
    }
}

/// One transaction that replaces the table: packets see the old rules or the new ones.
fn rules(suffering: &Suffering) -> String {
    let (mut arriving, mut leaving) = (String::new(), String::new());
    if !suffering.deaf_to.is_empty() {
        let from: Vec<String> = suffering.deaf_to.iter().map(Ipv4Addr::to_string).collect();
        arriving += &format!("    ip saddr {{ {} }} drop\n", from.join(", "));
    }
    if suffering.loss_percent > 0 {
        arriving += &format!("    numgen random mod 100 < {} drop\n", suffering.loss_percent);
    }
    if suffering.kib_per_s > 0 {
        leaving +=
            &format!("    limit rate over {} kbytes/second burst {BURST_KIB} kbytes drop\n", suffering.kib_per_s);
    }
    format!(
        "table inet chaos\ndelete table inet chaos\ntable inet chaos {{\n  chain arriving {{\n    \
         type filter hook input priority 0; policy accept;\n    iifname \"lo\" accept\n{arriving}  }}\n  \
         chain leaving {{\n    type filter hook output priority 0; policy accept;\n    oifname \"lo\" accept\n{leaving}  \
         }}\n}}\n"
    )
}

/// Takes away what runs have left that are no more.
pub fn clean_up_after_the_dead() {
    let alive = |run: &str| {
        let name = std::fs::read_to_string(format!("/proc/{run}/comm")).unwrap_or_default();
        name.starts_with("chaos")
    };
    for name in namespaces(PREFIX) {
        let run = name.trim_start_matches(PREFIX).split('-').next().unwrap_or_default();
        if alive(run) {
            continue;
        }
        let inside = Command::new("ip").args(["netns", "pids", &name]).output().map(|o| o.stdout).unwrap_or_default();
        for pid in String::from_utf8_lossy(&inside).split_whitespace() {
            eprintln!("chaos: ending process {pid}, which a dead run has left in {name}");
            let _ = Command::new("kill").args(["-KILL", pid]).status();
        }
        let _ = ip(&["netns", "del", &name]);
    }
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    for target in mounts.lines().filter_map(|line| line.split_whitespace().nth(1)) {
        if let Some((_, rest)) = target.split_once("/greylag-chaos.")
            && let Some(run) = rest.split('/').next()
            && !alive(run)
        {
            let _ = Command::new("umount").args(["-l", target]).status();
        }
    }
}

fn namespaces(prefix: &str) -> Vec<String> {
    let entries = std::fs::read_dir(NAMESPACES).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
    names.retain(|name| name.starts_with(prefix));
    names.sort();
    names
}

pub fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    run(Command::new("ip").args(arguments))
}

/// Runs a command that must succeed.
pub fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("{command:?} could not be run"))?;
    anyhow::ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_say_what_is_suffered_and_spare_loopback() {
        let free = rules(&Suffering::default());
        assert!(!free.contains("drop"), "{free}");
        let all = Suffering {
            deaf_to: [Place::Node(1).address(), Place::Postgres.address()].into(),
            loss_percent: 7,
            kib_per_s: 512,
        };
        let text = rules(&all);
        for part in [
            "ip saddr { 10.77.0.12, 10.77.0.101 } drop",
            "numgen random mod 100 < 7 drop",
            "limit rate over 512 kbytes/second burst 64 kbytes drop",
        ] {
            assert!(text.contains(part), "{text}");
            let chain = text.find(part).map(|at| &text[..at]).unwrap_or_default();
            assert!(chain.rfind("\"lo\" accept") > chain.rfind("chain "), "{text}");
        }
    }
}
