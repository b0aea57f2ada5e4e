//! A PostgreSQL and a MariaDB of the run's own, each in a namespace of its own, stopped and started as the nemesis says.
//! Nothing here is durable against the loss of the machine: that is not what is tried.

use std::{
    fs::File,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    net::{Network, Place, run},
    schedule::Source,
};

/// Longest wait for a server to answer.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// Longest wait for one to end that was told to.
const END_MAX: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(50);
const ACCOUNT: &str = "greylag";
const DATABASE: &str = "greylag_chaos";

pub struct Server {
    source: Source,
    dir: PathBuf,
    bin: PathBuf,
    password: String,
    child: Option<Child>,
}

impl Server {
    /// Makes it new below `dir`, starts it, and returns when it answers.
    pub fn make(source: Source, dir: &Path, network: &Network) -> anyhow::Result<Self> {
        let dir = dir.join(match source {
            Source::Postgres => "postgres",
            Source::Mariadb => "mariadb",
        });
        std::fs::create_dir_all(&dir)?;
        let bin = match source {
            Source::Postgres => folder_of("postgres")?,
            Source::Mariadb => folder_of("mariadbd")?,
        };
        let password = format!("chaos-{}", std::process::id());
        let mut server = Self { source, dir, bin, password, child: None };
        run(Command::new("chown").arg(server.system_account()).arg(&server.dir))?;
        match source {
            Source::Postgres => server.init_postgres()?,
            Source::Mariadb => server.init_mariadb()?,
        }
        server.start(network)?;
        let grants = match source {
            Source::Postgres => format!("CREATE ROLE {ACCOUNT} LOGIN PASSWORD '{}'", server.password),
            Source::Mariadb => format!(
                "CREATE DATABASE {DATABASE}; CREATE USER '{ACCOUNT}'@'%' IDENTIFIED BY '{}'; \
                 GRANT ALL ON {DATABASE}.* TO '{ACCOUNT}'@'%'",
                server.password
            ),
        };
        run(&mut server.tell(&grants))?;
        if source == Source::Postgres {
            run(&mut server.tell(&format!("CREATE DATABASE {DATABASE} OWNER {ACCOUNT}")))?;
        }
        Ok(server)
    }

    pub fn url(&self) -> String {
        let (scheme, address, suffix) = match self.source {
            Source::Postgres => ("postgres", Place::Postgres.address(), ":5432"),
            Source::Mariadb => ("mysql", Place::Mariadb.address(), ":3306"),
        };
        let tls = if self.source == Source::Postgres { "?sslmode=disable" } else { "" };
        format!("{scheme}://{ACCOUNT}:{}@{address}{suffix}/{DATABASE}{tls}", self.password)
    }

    fn place(&self) -> Place {
        match self.source {
            Source::Postgres => Place::Postgres,
            Source::Mariadb => Place::Mariadb,
        }
    }

    /// Servers refuse to run as root.
    fn system_account(&self) -> &'static str {
        match self.source {
            Source::Postgres => "postgres",
            Source::Mariadb => "mysql",
        }
    }

    fn init_postgres(&self) -> anyhow::Result<()> {
        let mut initdb = Command::new("runuser");
        initdb.args(["-u", self.system_account(), "--"]).arg(self.bin.join("initdb")).arg("-D").arg(self.data());
        initdb.args(["-U", "postgres", "--auth-local=trust", "--auth-host=scram-sha-256", "--encoding=UTF8"]);
        run(initdb.args(["--locale=C", "--no-sync"]).current_dir(&self.dir))?;
        let hba = self.data().join("pg_hba.conf");
        let rules = std::fs::read_to_string(&hba)? + "host all all 10.77.0.0/24 scram-sha-256\n";
        Ok(std::fs::write(hba, rules)?)
    }

    fn init_mariadb(&self) -> anyhow::Result<()> {
        let mut install = Command::new("mariadb-install-db");
        install.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]);
        install.arg(format!("--user={}", self.system_account()));
        run(install.arg(format!("--datadir={}", self.data().display())))
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// A statement of the superuser, through the Unix socket.
    fn tell(&self, sql: &str) -> Command {
        match self.source {
            Source::Postgres => {
                let mut psql = Command::new("psql");
                psql.args(["-q", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "postgres", "-h"]).arg(&self.dir);
                psql.args(["-c", sql]);
                psql
            }
            Source::Mariadb => {
                let mut client = Command::new("mariadb");
                client.args(["--no-defaults", "-u", "root", "-S"]).arg(self.dir.join("sock")).args(["-e", sql]);
                client
            }
        }
    }

    /// Starts it on what is there and returns when it answers.
    pub fn start(&mut self, network: &Network) -> anyhow::Result<()> {
        let log = File::options().create(true).append(true).open(self.dir.join("server.log"))?;
        let mut command = match self.source {
            Source::Postgres => {
                let mut command = network.command(self.place(), Path::new("setpriv"));
                command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]).arg(self.bin.join("postgres"));
                command.arg("-D").arg(self.data()).args(["-c", "listen_addresses=*", "-c", "port=5432"]);
                command.args(["-c", "fsync=off", "-c", "max_connections=200", "-c"]);
                command.arg(format!("unix_socket_directories={}", self.dir.display()));
                command
            }
            Source::Mariadb => {
                let mut command = network.command(self.place(), &self.bin.join("mariadbd"));
                command.args(["--no-defaults", "--user=mysql", "--port=3306", "--bind-address=0.0.0.0"]);
                command.arg(format!("--datadir={}", self.data().display()));
                command.arg(format!("--socket={}", self.dir.join("sock").display()));
                command.arg(format!("--pid-file={}", self.dir.join("pid").display()));
                command.args(["--innodb-flush-log-at-trx-commit=0", "--max-allowed-packet=64M"]);
                command.args(["--max-connections=200", "--character-set-server=utf8mb4", "--skip-name-resolve"]);
                command
            }
        };
        command.current_dir(&self.dir).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        self.child = Some(command.spawn()?);
        let started = Instant::now();
        while run(&mut self.tell("SELECT 1")).is_err() {
            anyhow::ensure!(started.elapsed() < ANSWER_MAX, "{:?} does not answer: see {:?}", self.source, self.dir);
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Ends it at once: SIGQUIT is PostgreSQL's immediate shutdown, MariaDB knows nothing like it and is killed.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let pid = Pid::from_raw(child.id().try_into()?);
        let signal = match self.source {
            Source::Postgres => Signal::SIGQUIT,
            Source::Mariadb => Signal::SIGKILL,
        };
        kill(pid, signal)?;
        let started = Instant::now();
        while child.try_wait()?.is_none() {
            if started.elapsed() > END_MAX {
                child.kill()?;
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

/// The folder with a server's programs: Debian keeps some off the PATH.
fn folder_of(program: &str) -> anyhow::Result<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = versions.map(|entry| entry.path().join("bin")).collect();
    folders.sort();
    folders.reverse();
    let path = std::env::var_os("PATH").unwrap_or_default();
    folders.extend(std::env::split_paths(&path));
    folders.push("/usr/sbin".into());
    folders.into_iter().find(|f| f.join(program).is_file()).with_context(|| format!("{program} is not installed"))
}
