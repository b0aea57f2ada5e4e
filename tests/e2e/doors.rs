//! A door with TLS as a person uses it, and the token that whoever founds a mesh is shown once.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Output},
    time::{Duration, Instant},
};

use greylag_node::demo::free_port;
use greylag_tests::{binary, greylag, stderr_of_failure, stdout_of};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};

const PATIENCE: Duration = Duration::from_secs(60);

/// PEM files of an authority, of a door and of a client.
struct Files(PathBuf);

impl Files {
    fn make(dir: &Path) -> Self {
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_key = KeyPair::generate().unwrap();
        std::fs::write(dir.join("ca.pem"), ca.self_signed(&ca_key).unwrap().pem()).unwrap();
        let authority = Issuer::new(ca, ca_key);
        let mut door = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        door.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let mut client = CertificateParams::new(Vec::new()).unwrap();
        client.subject_alt_names = vec![SanType::URI("spiffe://mesh.example/clinic/service/etl".try_into().unwrap())];
        client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        for (name, params) in [("door", door), ("client", client)] {
            let key = KeyPair::generate().unwrap();
            let signed = params.signed_by(&key, &authority).unwrap().pem();
            std::fs::write(dir.join(format!("{name}.pem")), signed).unwrap();
            std::fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
        }
        Self(dir.to_owned())
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_string_lossy().into_owned()
    }

    fn config(&self, mesh: u16, door: u16) -> String {
        let path = self.path("node.toml");
        let text = format!(
            "dev = true\nlisten = '127.0.0.1:{mesh}'\nflight = '127.0.0.1:{door}'\ndata_dir = '{data}'\n\
             [door]\ncertificate = '{certificate}'\nkey = '{key}'\nclient_ca = '{ca}'\n\
             [identity.certificates]\ntrust_domain = 'mesh.example'\n\
             [identity.certificates.roles]\n'clinic/service/etl' = ['admin']\n",
            data = self.path("data"),
            certificate = self.path("door.pem"),
            key = self.path("door.key"),
            ca = self.path("ca.pem"),
        );
        std::fs::write(&path, text).unwrap();
        path
    }
}

/// A node that ends with the test.
struct Node {
    child: Child,
    output: PathBuf,
    log: PathBuf,
}

impl Node {
    fn start(files: &Files, config: &str, run: &str) -> Self {
        let (output, log) = (files.0.join(format!("{run}.out")), files.0.join(format!("{run}.log")));
        let child = Command::new(binary())
            .args(["node", "--config", config])
            .stdout(File::create(&output).unwrap())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { child, output, log }
    }

    fn said(&self) -> (String, String) {
        [&self.output, &self.log].map(|file| std::fs::read_to_string(file).unwrap()).into()
    }

    /// Waits until it has said all that a node says when it is up.
    fn wait_up(&self) {
        let started = Instant::now();
        while !self.said().0.contains("flight sql on") {
            assert!(started.elapsed() < PATIENCE, "{}", self.said().1);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What the first successful run of this says.
    fn wait_for(&self, ask: impl Fn() -> Output) -> String {
        let started = Instant::now();
        loop {
            let answer = ask();
            if answer.status.success() {
                return stdout_of(&answer);
            }
            let error = String::from_utf8_lossy(&answer.stderr).into_owned();
            assert!(started.elapsed() < PATIENCE, "{error}\n{}", self.said().1);
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_door_with_tls_and_the_token_that_the_founder_is_shown_once() {
    let dir = tempfile::tempdir().unwrap();
    let (files, port) = (Files::make(dir.path()), free_port().unwrap());
    let config = files.config(free_port().unwrap(), port);
    let (door, plain) = (format!("grpc+tls://127.0.0.1:{port}"), format!("127.0.0.1:{port}"));
    let (ca, data) = (files.path("ca.pem"), files.path("data"));
    let sql = ["sql", "-c", "SELECT 41 + 1 AS n", "--format", "csv"];
    let by_file = || greylag(&[&sql[..], &["--server", &door, "--tls-ca", &ca, "--data-dir", &data]].concat());

    let founder = Node::start(&files, &config, "first");
    assert_eq!(founder.wait_for(by_file), "n\n42\n");
    founder.wait_up();
    let (output, log) = founder.said();
    let mut lines = output.lines().skip_while(|line| !line.contains("has founded the mesh"));
    let token = lines.nth(1).unwrap_or_else(|| panic!("no token is shown: {output}")).to_owned();
    assert_eq!(output.matches(&token).count(), 1);
    assert!(!log.contains(&token), "the token is in the log");
    let by_token = greylag(&[&sql[..], &["--server", &door, "--tls-ca", &ca, "--token", &token]].concat());
    assert_eq!(stdout_of(&by_token), "n\n42\n");

    let (certificate, key) = (files.path("client.pem"), files.path("client.key"));
    let certified = ["--server", &door, "--tls-ca", &ca, "--cert", &certificate, "--key", &key];
    assert_eq!(stdout_of(&greylag(&[&sql[..], &certified].concat())), "n\n42\n");
    let status = stdout_of(&greylag(&[&["status"][..], &certified].concat()));
    assert!(status.contains("n1"), "{status}");
    let contradicted = greylag(&[&sql[..], &certified, &["--token", &token]].concat());
    assert!(stderr_of_failure(&contradicted).contains("GL2001"), "a certificate and another's token");
    let strangers_ca = greylag(&[&sql[..], &["--server", &door, "--token", &token]].concat());
    assert!(stderr_of_failure(&strangers_ca).contains("GL4013"), "no public authority has signed the door");
    let unencrypted = greylag(&[&sql[..], &["--server", &plain, "--token", &token]].concat());
    let said = stderr_of_failure(&unencrypted);
    assert!(said.contains("GL4013"), "plaintext: {said}");

    drop(founder);
    let again = Node::start(&files, &config, "second");
    assert_eq!(again.wait_for(by_file), "n\n42\n");
    again.wait_up();
    let (output, log) = again.said();
    let fresh = std::fs::read_to_string(dir.path().join("data/admin.token")).unwrap();
    for token in [&token, fresh.trim()] {
        assert!(!output.contains(token) && !log.contains(token), "a token is shown again");
    }
    assert!(output.contains("is up") && !output.contains("has founded"), "{output}");
}
