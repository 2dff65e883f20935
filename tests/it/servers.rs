//! Real servers on loopback ports: see `tests/servers/README.md`.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use object_store::ClientOptions;
use object_store::aws::{AwsAuthorizer, AwsCredential};
use object_store::azure::{AzureAccessKey, AzureAuthorizer, AzureCredential};
use object_store::client::{HttpConnector, HttpRequest, HttpRequestBody, ReqwestConnector};
use tempfile::TempDir;

const REGION: &str = "eu-west-1";
/// What MinIO is started with; moto takes anything.
const KEY: (&str, &str) = ("regrow-root", "regrow-secret");
/// Azurite's account and its published key.
const AZURE: (&str, &str) =
    ("devstoreaccount1", "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Moto,
    Minio,
    Azurite,
    Gcs,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Moto => "moto",
            Self::Minio => "minio",
            Self::Azurite => "azurite",
            Self::Gcs => "gcs",
        }
    }
}

/// A server's process, which runs until this is dropped, or the process of the tests ends.
pub struct Running {
    /// The first is what the server is asked at.
    pub ports: Vec<u16>,
    name: &'static str,
    ready: fn(u16) -> bool,
    child: Child,
    directory: TempDir,
}

impl Running {
    /// Starts a server that takes so many ports, and waits until `ready` says that it answers. `None`, after a visible
    /// line, when it is not installed; with `CI` set that is a failure.
    pub fn start(name: &'static str, ports: usize, ready: fn(u16) -> bool) -> Option<Self> {
        let directory = TempDir::new().expect("a temporary directory");
        std::fs::create_dir(directory.path().join("data")).expect("a directory");
        // All at once, so that no two are the same.
        let free: Vec<TcpListener> =
            (0..ports).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
        let ports: Vec<u16> = free.iter().map(|l| l.local_addr().expect("an address").port()).collect();
        drop(free);
        let child = spawn(name, &ports, directory.path());
        let mut running = Self { ports, name, ready, child, directory };
        running.wait().then_some(running)
    }

    /// False when it is not installed.
    fn wait(&mut self) -> bool {
        let (name, begin) = (self.name, Instant::now());
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                assert_eq!(status.code(), Some(3), "{name} ended");
                assert!(std::env::var_os("CI").is_none(), "{name} is missing: tests/servers/install {name}");
                eprintln!("skipped: {name} is not installed; `tests/servers/install {name}` does it");
                return false;
            }
            if (self.ready)(self.ports[0]) {
                return true;
            }
            let log = || std::fs::read_to_string(self.directory.path().join("data.log")).unwrap_or_default();
            assert!(begin.elapsed() < Duration::from_secs(180), "{name} does not answer: {}", log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Killed, with everything it started, and started again on the same ports and data.
    pub fn killed_and_started(mut self) -> Self {
        let group =
            std::fs::read_to_string(self.directory.path().join("data.pid")).expect("the server's process group");
        let kill = Command::new("kill").args(["-KILL", "--", &format!("-{}", group.trim())]).status();
        assert!(kill.expect("kill starts").success());
        drop(self.child.stdin.take());
        self.child.wait().expect("a child");
        self.child = spawn(self.name, &self.ports, self.directory.path());
        assert!(self.wait());
        self
    }
}

fn spawn(name: &str, ports: &[u16], directory: &Path) -> Child {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers/run"))
        .args([name, &ports[0].to_string()])
        .arg(directory.join("data"))
        .args(ports[1..].iter().map(u16::to_string))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the script starts")
}

impl Drop for Running {
    fn drop(&mut self) {
        // The script stops the server when its input ends.
        drop(self.child.stdin.take());
        drop(self.child.wait());
    }
}

/// An object store that runs until this is dropped, or the process ends.
pub struct Server {
    pub kind: Kind,
    pub port: u16,
    _running: Running,
}

impl Server {
    /// Starts one. `None`, after a visible line, when it is not installed; with `CI` set that is a failure.
    pub fn start(kind: Kind) -> Option<Self> {
        let running = Running::start(kind.name(), 1, |port| answers(port, "/minio/health/live"))?;
        Some(Self { kind, port: running.ports[0], _running: running })
    }

    pub fn endpoint(&self) -> String {
        match self.kind {
            Kind::Azurite => format!("http://127.0.0.1:{}/{}", self.port, AZURE.0),
            _ => format!("http://127.0.0.1:{}", self.port),
        }
    }

    pub fn url(&self, bucket: &str, prefix: &str) -> String {
        let scheme = match self.kind {
            Kind::Moto | Kind::Minio => "s3",
            Kind::Azurite => "az",
            Kind::Gcs => "gs",
        };
        format!("{scheme}://{bucket}/{prefix}")
    }

    /// The settings of the store, secrets as they are.
    pub fn options(&self) -> Vec<(String, String)> {
        let mut options = vec![("endpoint", self.endpoint())];
        match self.kind {
            Kind::Moto | Kind::Minio => options.extend([
                ("region", REGION.to_owned()),
                ("access_key_id", KEY.0.to_owned()),
                ("secret_access_key", KEY.1.to_owned()),
            ]),
            Kind::Azurite => {
                options.extend([("account_name", AZURE.0.to_owned()), ("account_key", AZURE.1.to_owned())]);
            }
            Kind::Gcs => {
                let account = r#"{"disable_oauth":true,"client_email":"","private_key":"","private_key_id":""}"#;
                options.push(("service_account_key", account.to_owned()));
            }
        }
        options.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
    }

    /// The settings with some of them changed.
    pub fn options_with(&self, changes: &[(&str, &str)]) -> Vec<(String, String)> {
        let mut options = self.options();
        for (key, value) in changes {
            options.retain(|(k, _)| k != key);
            options.push(((*key).to_owned(), (*value).to_owned()));
        }
        options
    }

    /// The settings as a table of a pipeline, secrets by reference, and the environment that the references need.
    pub fn settings(&self) -> (String, Vec<(String, String)>) {
        let (mut table, mut environment) = (String::new(), Vec::new());
        for (key, value) in self.options() {
            if key.contains("key") {
                let variable = format!("TEST_{}", key.to_uppercase());
                table += &format!("{key} = \"env:{variable}\"\n");
                environment.push((variable, value));
            } else {
                table += &format!("{key} = \"{value}\"\n");
            }
        }
        (table, environment)
    }

    /// Makes a bucket or container.
    pub async fn bucket(&self, name: &str) {
        match self.kind {
            Kind::Moto | Kind::Minio => {
                let region = format!(
                    "<CreateBucketConfiguration><LocationConstraint>{REGION}</LocationConstraint></CreateBucketConfiguration>"
                );
                self.send("PUT", name, &[], &region).await;
            }
            Kind::Azurite => self.send("PUT", &format!("{name}?restype=container"), &[], "").await,
            Kind::Gcs => self.send("PUT", name, &[], "").await,
        }
    }

    /// Makes a bucket that keeps every version.
    pub async fn versioned(&self, name: &str) {
        match self.kind {
            Kind::Moto | Kind::Minio => {
                self.bucket(name).await;
                let on = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
                self.send("PUT", &format!("{name}?versioning="), &[], on).await;
            }
            Kind::Gcs => self.send("PUT", &format!("{name}?versioned"), &[], "").await,
            Kind::Azurite => panic!("Azurite has no versions"),
        }
    }

    /// Sends a signed request, which must succeed.
    pub async fn send(&self, method: &str, path: &str, headers: &[(&'static str, &str)], body: &str) {
        let mut request = HttpRequest::new(HttpRequestBody::from(body.to_owned()));
        *request.method_mut() = method.parse().expect("a method");
        *request.uri_mut() = format!("{}/{path}", self.endpoint()).parse().expect("a URL");
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().expect("a header"));
        }
        request.headers_mut().insert("content-length", body.len().to_string().parse().expect("a header"));
        match self.kind {
            Kind::Moto | Kind::Minio => {
                let credential = AwsCredential { key_id: KEY.0.to_owned(), secret_key: KEY.1.to_owned(), token: None };
                AwsAuthorizer::new(&credential, "s3", REGION).authorize(&mut request, None);
            }
            Kind::Azurite => {
                let key = AzureCredential::AccessKey(AzureAccessKey::try_new(AZURE.1).expect("a key"));
                AzureAuthorizer::new(&key, AZURE.0).authorize(&mut request);
            }
            Kind::Gcs => {}
        }
        let client =
            ReqwestConnector::default().connect(&ClientOptions::new().with_allow_http(true)).expect("a client");
        let response = client.execute(request).await.expect("an answer");
        let status = response.status();
        let said = response.into_body().bytes().await.unwrap_or_default();
        assert!(status.is_success(), "{method} {path}: {status} {}", String::from_utf8_lossy(&said));
    }
}

/// What happens to one request on its way.
#[derive(Debug, Clone)]
pub enum Trouble {
    /// The server gets it, and its answer is lost.
    AnswerLost,
    /// The answer ends after so many bytes of its body.
    Cut(usize),
    /// This is answered instead: status line, headers, body.
    Instead(&'static str, String, String),
    /// Nothing is ever answered.
    Silence,
    /// A header is left out of the request.
    Without(&'static str),
}

/// A proxy before a server, through which requests get into trouble.
pub struct Proxy {
    pub port: u16,
    troubles: Arc<Mutex<Troubles>>,
}

#[derive(Default)]
struct Troubles {
    /// Each meets the next request that begins like this.
    once: Vec<(&'static str, Trouble)>,
    always: Option<(&'static str, Trouble)>,
    requests: usize,
    /// Requests that wait for their answer, and the most that ever did.
    waiting: (usize, usize),
}

impl Proxy {
    pub fn before(server: &Server) -> Self {
        Self::to(server.port)
    }

    pub fn to(upstream: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let troubles = Arc::new(Mutex::new(Troubles::default()));
        let shared = troubles.clone();
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let troubles = shared.clone();
                // A connection that breaks is the client's to notice.
                std::thread::spawn(move || drop(forward(socket, upstream, &troubles)));
            }
        });
        Self { port, troubles }
    }

    /// The next requests that begin with `start` meet these troubles, one each.
    pub fn once(&self, start: &'static str, troubles: &[Trouble]) {
        self.troubles.lock().unwrap().once.extend(troubles.iter().map(|t| (start, t.clone())));
    }

    /// From now on every request that begins with `start` meets this; nothing does with `None`.
    pub fn always(&self, trouble: Option<(&'static str, Trouble)>) {
        let mut troubles = self.troubles.lock().unwrap();
        troubles.always = trouble;
        troubles.requests = 0;
    }

    /// Requests since the last call of [`Proxy::always`].
    pub fn requests(&self) -> usize {
        self.troubles.lock().unwrap().requests
    }

    /// The most requests that ever waited for their answers at once.
    pub fn most_waiting(&self) -> usize {
        self.troubles.lock().unwrap().waiting.1
    }

    /// Troubles that no request has met yet.
    pub fn left(&self) -> usize {
        self.troubles.lock().unwrap().once.len()
    }
}

/// One request and its answer; the connection is closed afterwards.
fn forward(mut client: TcpStream, port: u16, troubles: &Mutex<Troubles>) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 64 << 10];
    let head = loop {
        let read = client.read(&mut chunk)?;
        if read == 0 {
            return Ok(());
        }
        bytes.extend_from_slice(&chunk[..read]);
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break end + 2;
        }
    };
    let mut lines: Vec<String> = String::from_utf8_lossy(&bytes[..head]).lines().map(str::to_owned).collect();
    let length = lines.iter().find_map(|l| l.to_lowercase().strip_prefix("content-length: ")?.parse::<usize>().ok());
    let whole = head + 2 + length.unwrap_or(0);
    while bytes.len() < whole {
        let read = client.read(&mut chunk)?;
        if read == 0 {
            return Ok(());
        }
        bytes.extend_from_slice(&chunk[..read]);
    }
    let trouble = {
        let mut troubles = troubles.lock().unwrap();
        troubles.requests += 1;
        troubles.waiting.0 += 1;
        troubles.waiting.1 = troubles.waiting.1.max(troubles.waiting.0);
        let next = troubles.once.iter().position(|(start, _)| lines[0].starts_with(start));
        let once = next.map(|i| troubles.once.remove(i).1);
        let always = troubles.always.clone().filter(|(start, _)| lines[0].starts_with(start)).map(|t| t.1);
        once.or(always)
    };
    let outcome = ask(port, &mut lines, &bytes[head + 2..], &trouble);
    // Before the client knows: it may then ask again.
    troubles.lock().unwrap().waiting.0 -= 1;
    match trouble {
        Some(Trouble::Silence) => {
            // Until the client gives up.
            while client.read(&mut chunk)? > 0 {}
            Ok(())
        }
        Some(Trouble::AnswerLost) => outcome.map(drop),
        Some(Trouble::Instead(status, headers, body)) => {
            let length = body.len();
            write!(client, "HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}")
        }
        Some(Trouble::Cut(most)) => {
            let mut answer = outcome?;
            let body = answer.windows(4).position(|w| w == b"\r\n\r\n").map_or(answer.len(), |end| end + 4);
            answer.truncate(body + most);
            client.write_all(&answer)
        }
        Some(Trouble::Without(_)) | None => client.write_all(&outcome?),
    }
}

/// The server's answer, if it is to be asked.
fn ask(port: u16, lines: &mut Vec<String>, body: &[u8], trouble: &Option<Trouble>) -> std::io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    if matches!(trouble, Some(Trouble::Silence | Trouble::Instead(..))) {
        return Ok(answer);
    }
    lines.retain(|line| {
        let name = line.split(':').next().unwrap_or_default().to_lowercase();
        name != "connection" && !matches!(trouble, Some(Trouble::Without(header)) if name == *header)
    });
    let mut server = TcpStream::connect(("127.0.0.1", port))?;
    write!(server, "{}\r\nconnection: close\r\n\r\n", lines.join("\r\n"))?;
    server.write_all(body)?;
    server.read_to_end(&mut answer)?;
    // The server closes without saying so.
    if let Some(line) = answer.windows(2).position(|w| w == b"\r\n") {
        answer.splice(line..line, *b"\r\nconnection: close");
    }
    Ok(answer)
}

/// Whether something speaks HTTP there.
pub fn answers(port: u16, path: &str) -> bool {
    let Ok(mut socket) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let mut answer = [0; 4];
    socket.set_read_timeout(Some(Duration::from_secs(5))).is_ok()
        && write!(socket, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").is_ok()
        && socket.read_exact(&mut answer).is_ok()
        && &answer == b"HTTP"
}
