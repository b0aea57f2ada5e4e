//! A PostgreSQL server of the demo's own, to be killed: in a folder that goes with it, on a free port of loopback.

use std::{
    io::Write,
    os::unix::{fs::OpenOptionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context;

use super::processes::free_port;

/// Longest wait for the server to answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// Accounts that may run a server in place of root, which may not.
const ACCOUNTS: [&str; 2] = ["postgres", "nobody"];
/// The server's superuser.
const USER: &str = "greylag";

pub struct PrivatePostgres {
    dir: PathBuf,
    bin: PathBuf,
    port: u16,
    /// The superuser's: whoever else is on this machine must not get at a server that may run programs.
    password: String,
    /// Whom to run it as, if this process is root.
    account: Option<&'static str>,
    child: Option<Child>,
}

impl PrivatePostgres {
    /// Makes a cluster and starts it. An error that says what to install, if there is no PostgreSQL on this machine.
    pub async fn start() -> anyhow::Result<Self> {
        let bin = find().context("PostgreSQL is not on this machine: on Debian, `apt-get install postgresql`")?;
        // Where the account can reach it, which a private temporary folder is not.
        let dir = std::env::temp_dir().join(format!("greylag-postgres-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&dir)?;
        let account = if is_root()? { ACCOUNTS.into_iter().find(|name| exists(name)) } else { None };
        let mut server = Self {
            dir,
            bin,
            port: free_port()?,
            password: uuid::Uuid::new_v4().simple().to_string(),
            account,
            child: None,
        };
        let secret = server.dir.join("password");
        let file = std::fs::File::options().create_new(true).write(true).mode(0o600).open(&secret)?;
        writeln!(&file, "{}", server.password)?;
        if let Some(account) = account {
            run(Command::new("chown").arg(account).args([&server.dir, &secret]))?;
        }
        let data = server.data();
        let mut initdb = server.command("initdb");
        initdb.arg("-D").arg(&data).args([
            "-U",
            USER,
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        ]);
        run(initdb.arg("--pwfile").arg(&secret))?;
        std::fs::remove_file(&secret)?;
        server.run().await?;
        Ok(server)
    }

    pub fn url(&self) -> String {
        format!("postgres://{USER}:{}@127.0.0.1:{}/postgres", self.password, self.port)
    }

    /// Starts the server on what is there, and returns when it answers.
    pub async fn run(&mut self) -> anyhow::Result<()> {
        let log = std::fs::File::options().create(true).append(true).open(self.dir.join("server.log"))?;
        let mut server = self.command("postgres");
        server.arg("-D").arg(self.data()).args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]);
        server.args(["-c", &format!("port={}", self.port)]).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        server.process_group(0);
        self.child = Some(server.spawn()?);
        let started = Instant::now();
        loop {
            match tokio_postgres::connect(&self.url(), tokio_postgres::NoTls).await {
                Ok(_) => return Ok(()),
                Err(error) if started.elapsed() > ANSWER_MAX => {
                    return Err(error).context("a PostgreSQL of the demo's own does not answer");
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// SIGKILL to the server and all that it has started: as if the machine had lost its power.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let pid = std::fs::read_to_string(self.data().join("postmaster.pid"))?;
        let pid = pid.lines().next().context("a server without a process")?.trim().to_owned();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        // Some may have ended by themselves in the meantime.
        let _ =
            Command::new("kill").arg("-9").arg(&pid).args(children.split_whitespace()).stderr(Stdio::null()).status();
        child.wait()?;
        Ok(())
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn command(&self, program: &str) -> Command {
        let program = self.bin.join(program);
        let mut command = match self.account {
            Some(account) => {
                let mut command = Command::new("runuser");
                command.args(["-u", account, "--"]).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.current_dir(&self.dir);
        command
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        let _ = self.kill();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("{:?} could not be run", command.get_program()))?;
    anyhow::ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// The folder with the server's programs: Debian keeps them off the PATH, elsewhere they are on it.
fn find() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let on_path = std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect::<Vec<_>>());
    let mut folders: Vec<PathBuf> = versions.map(|entry| entry.path().join("bin")).collect();
    folders.sort();
    folders.reverse();
    let complete = |folder: &Path| folder.join("initdb").is_file() && folder.join("postgres").is_file();
    folders.into_iter().chain(on_path.unwrap_or_default()).find(|folder| complete(folder))
}

fn is_root() -> anyhow::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    Ok(std::fs::metadata("/proc/self")?.uid() == 0)
}

fn exists(account: &str) -> bool {
    let known = Command::new("id").arg(account).stdout(Stdio::null()).stderr(Stdio::null()).status();
    known.is_ok_and(|status| status.success())
}
