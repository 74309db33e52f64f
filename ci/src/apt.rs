//! Debian packages of another architecture and suite, through the machine's own apt.
//!
//! apt runs with a private state directory, so nothing of the machine's package database is read or changed and
//! no privilege is needed. Which server to ask, through which proxy, stays as the machine is configured.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};

/// Where Debian's `debian-archive-keyring` package puts the archive's keys.
const KEYRINGS: [&str; 2] =
    ["/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/share/keyrings/debian-archive-keyring.pgp"];

/// A private apt: its state, the suites it knows, the packages it fetched.
pub struct Apt {
    root: PathBuf,
    suites: Vec<String>,
    architecture: String,
    status: Option<PathBuf>,
}

/// One package file as the archive describes it.
#[derive(Clone, Debug)]
pub struct Package {
    /// The file's name in the archive, decoded.
    pub file: String,
    /// Name of the package.
    pub name: String,
    size: u64,
    sha256: String,
}

impl Apt {
    /// An apt below `root` that sees only `suites` (component main) for `architecture`.
    pub fn new(root: &Path, suites: &[&str], architecture: &str) -> Apt {
        Apt {
            root: root.to_owned(),
            suites: suites.iter().map(|s| (*s).to_owned()).collect(),
            architecture: architecture.to_owned(),
            status: None,
        }
    }

    /// Counts the packages of the dpkg database `status` as installed, for [`Apt::closure`].
    pub fn with_installed(mut self, status: &Path) -> Apt {
        self.status = Some(status.to_owned());
        self
    }

    /// Reads the archive's index. Tries each base URI that the machine's apt is configured with.
    pub fn update(&self) -> Result<()> {
        let keyring = KEYRINGS.iter().find(|k| Path::new(k).exists()).context(
            "the Debian archive's keys are not installed: install the package debian-archive-keyring",
        )?;
        let (uris, security) = base_uris()?;
        self.write_configuration()?;
        let (secure, plain): (Vec<&str>, Vec<&str>) =
            self.suites.iter().map(String::as_str).partition(|suite| suite.ends_with("-security"));
        let mut refused = Vec::new();
        for uri in &uris {
            let stanza = |uri: &str, suites: &[&str]| {
                format!(
                    "Types: deb\nURIs: {uri}\nSuites: {}\nComponents: main\nArchitectures: {}\nSigned-By: {keyring}\n\n",
                    suites.join(" "),
                    self.architecture
                )
            };
            let mut sources = stanza(uri, &plain);
            if !secure.is_empty() {
                let base = security.as_deref().context("apt knows no security archive of Debian")?;
                sources += &stanza(base, &secure);
            }
            fs::write(self.sources(), sources)?;
            let bar = spinner(&format!(
                "reading the index of Debian {} ({})",
                self.suites.join(", "),
                self.architecture
            ));
            let output = self.command("apt-get").args(["update", "--error-on=any"]).output()?;
            bar.finish_and_clear();
            if output.status.success() {
                return Ok(());
            }
            refused.push(format!("{uri}:\n{}", String::from_utf8_lossy(&output.stderr).trim_end()));
        }
        bail!(
            "no configured Debian archive gave a verified index of {} ({}):\n{}",
            self.suites.join(", "),
            self.architecture,
            refused.join("\n")
        )
    }

    /// The packages that `name` depends on directly (first alternatives).
    pub fn depends(&self, name: &str) -> Result<Vec<String>> {
        let text = self.output(self.command("apt-cache").args(["depends", "--important", name]))?;
        Ok(text.lines().filter_map(|l| l.trim().strip_prefix("Depends: ")).map(str::to_owned).collect())
    }

    /// The version of `name` that would be installed.
    pub fn candidate(&self, name: &str) -> Result<String> {
        let text = self.output(self.command("apt-cache").args(["policy", name]))?;
        let version = text.lines().find_map(|l| l.trim().strip_prefix("Candidate: "));
        let version = version.filter(|v| *v != "(none)");
        Ok(version
            .with_context(|| format!("the archive has no {name} for {}", self.architecture))?
            .to_owned())
    }

    /// `names` and all they need, as `apt-get install` would choose them; the last suite is preferred.
    pub fn closure(&self, names: &[&str]) -> Result<Vec<String>> {
        let mut command = self.command("apt-get");
        command.args(["install", "--simulate", "--no-install-recommends", "-q", "-t"]);
        command.arg(self.suites.last().context("an apt without a suite")?).args(names);
        let text = self.output(&mut command)?;
        Ok(text
            .lines()
            .filter_map(|l| l.strip_prefix("Inst ")?.split_whitespace().next().map(str::to_owned))
            .collect())
    }

    /// Fetches `names` into `directory`, skipping files that are there and whole. Returns what is there now.
    pub fn download(&self, names: &[String], directory: &Path) -> Result<Vec<Package>> {
        fs::create_dir_all(directory)?;
        let text =
            self.output(self.command("apt-get").args(["download", "--print-uris", "-q"]).args(names))?;
        let packages = text.lines().map(Package::parse).collect::<Result<Vec<_>>>()?;
        ensure!(packages.len() == names.len(), "the archive lacks one of: {}", names.join(", "));
        let missing: Vec<&Package> = packages.iter().filter(|p| !p.whole(directory)).collect();
        if missing.is_empty() {
            return Ok(packages);
        }
        // apt decides by name and size whether a file is there: a broken one has to go first.
        for package in &missing {
            let _ = fs::remove_file(directory.join(&package.file));
        }
        let mut command = self.command("apt-get");
        command.current_dir(directory).args(["download", "-qq"]).args(missing.iter().map(|p| &p.name));
        let total = missing.iter().map(|p| p.size).sum();
        let output = with_progress(&missing, directory, total, || command.output())?;
        ensure!(
            output.status.success(),
            "apt-get download: {}",
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
        for package in missing {
            ensure!(package.whole(directory), "{} arrived damaged", package.file);
        }
        Ok(packages)
    }

    fn sources(&self) -> PathBuf {
        self.root.join("debian.sources")
    }

    fn write_configuration(&self) -> Result<()> {
        let root = &self.root;
        fs::create_dir_all(root.join("state/lists/partial"))
            .with_context(|| format!("create {}", root.display()))?;
        fs::create_dir_all(root.join("cache/archives/partial"))?;
        let status = self.status.clone().unwrap_or_else(|| root.join("status"));
        if self.status.is_none() {
            fs::write(&status, "")?;
        }
        let root = root.to_str().context("the path of target/ is not UTF-8")?;
        ensure!(!root.contains('"'), "apt cannot work below a path with a quotation mark: {root}");
        // The machine's own apt.conf.d is still read after this file: proxies and the like stay in force.
        fs::write(
            self.root.join("apt.conf"),
            format!(
                r#"Dir::State "{root}/state/";
Dir::State::status "{status}";
Dir::Cache "{root}/cache/";
Dir::Etc::SourceList "{root}/debian.sources";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
APT::Architecture "{architecture}";
APT::Architectures "{architecture}";
APT::Install-Recommends "false";
APT::Sandbox::User "root";
APT::Get::AllowUnauthenticated "false";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
"#,
                status = status.display(),
                architecture = self.architecture
            ),
        )?;
        Ok(())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", self.root.join("apt.conf")).env("LC_ALL", "C").stdin(Stdio::null());
        command
    }

    fn output(&self, command: &mut Command) -> Result<String> {
        run(command)
    }
}

impl Package {
    /// Parses a line of `apt-get download --print-uris`: 'URI' FILE SIZE SHA256:DIGEST.
    fn parse(line: &str) -> Result<Package> {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let parsed = (|| {
            let [_, file, size, digest] = fields[..] else { return None };
            Some(Package {
                file: file.to_owned(),
                name: file.split('_').next()?.to_owned(),
                size: size.parse().ok()?,
                sha256: digest.strip_prefix("SHA256:")?.to_owned(),
            })
        })();
        parsed.with_context(|| format!("apt-get --print-uris printed {line:?}"))
    }

    fn whole(&self, directory: &Path) -> bool {
        fs::read(directory.join(&self.file)).is_ok_and(|bytes| hex(&Sha256::digest(bytes)) == self.sha256)
    }
}

/// Lower-case hexadecimal text.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Runs a command and returns its standard output, or its standard error as the error.
pub fn run(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("start {program}"))?;
    if !output.status.success() {
        let arguments: Vec<_> = command.get_args().map(|a| a.to_string_lossy().into_owned()).collect();
        bail!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim_end());
    }
    String::from_utf8(output.stdout).with_context(|| format!("{program} printed bytes that are not UTF-8"))
}

/// The archives the machine's apt is configured with that look like Debian's own, likeliest first, and that
/// of the security suites.
fn base_uris() -> Result<(Vec<String>, Option<String>)> {
    let mut command = Command::new("apt-get");
    command.args([
        "indextargets",
        "--no-release-info",
        "--format",
        "$(REPO_URI)|$(RELEASE)",
        "Created-By: Packages",
    ]);
    let text = match run(command.env("LC_ALL", "C")) {
        Ok(text) => text,
        Err(e) if e.downcast_ref::<std::io::Error>().is_some() => {
            bail!(
                "apt-get is not installed: the guest is assembled from Debian packages, so this needs a Debian machine"
            )
        }
        Err(e) => return Err(e),
    };
    let uris = likely_archives(&text);
    ensure!(
        !uris.is_empty(),
        "apt knows no Debian archive: add one to /etc/apt/sources.list.d (apt-get indextargets printed nothing usable)"
    );
    Ok((uris, security_archive(&text)))
}

/// Base URI of the first suite whose name ends in `-security`.
fn security_archive(lines: &str) -> Option<String> {
    let mut lines = lines.lines().filter_map(|l| l.rsplit_once('|'));
    lines.find(|(_, release)| release.ends_with("-security")).map(|(uri, _)| uri.to_owned())
}

/// Base URIs from lines "URI|RELEASE". Suites such as bookworm-security live on another base, and flat
/// repositories are never Debian's; other vendors' archives fail the signature check later.
fn likely_archives(lines: &str) -> Vec<String> {
    const DEBIAN: [&str; 9] =
        ["trixie", "bookworm", "forky", "bullseye", "sid", "stable", "oldstable", "testing", "unstable"];
    let mut found: Vec<(bool, &str)> = lines
        .lines()
        .filter_map(|l| l.rsplit_once('|'))
        .filter(|(_, release)| !release.contains(['-', '/']))
        .map(|(uri, release)| (!DEBIAN.contains(&release), uri))
        .collect();
    found.sort_by_key(|(other, _)| *other);
    let mut uris: Vec<String> = Vec::new();
    for (_, uri) in found {
        if !uris.iter().any(|u| u == uri) {
            uris.push(uri.to_owned());
        }
    }
    uris
}

/// A line that says what is going on while something of unknown length runs.
pub fn spinner(text: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_message(text.to_owned());
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// Runs `work` while a bar shows how much of `packages` has arrived in `directory`.
fn with_progress<T>(packages: &[&Package], directory: &Path, total: u64, work: impl FnOnce() -> T) -> T {
    let bar = ProgressBar::new(total).with_style(
        ProgressStyle::with_template("{msg} [{bar:30}] {bytes}/{total_bytes} {eta}")
            .expect("the template is valid")
            .progress_chars("=> "),
    );
    bar.set_message(format!("fetching {} packages", packages.len()));
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let size = |p: &&Package| fs::metadata(directory.join(&p.file)).map_or(0, |m| m.len());
                bar.set_position(packages.iter().map(size).sum());
                thread::sleep(Duration::from_millis(100));
            }
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        bar.finish_and_clear();
        result
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_found_by_their_suites() {
        let check = |lines: &str, expected: &[&str]| assert_eq!(likely_archives(lines), expected, "{lines}");
        check("", &[]);
        check("a/|bookworm\nb/|bookworm-security\na/|bookworm\n", &["a/"]);
        check("vendor/|nodistro\na/|trixie\nb/|trixie-updates\n", &["a/", "vendor/"]);
        check("flat/|./\n", &[]);
        assert_eq!(security_archive("a/|bookworm\nb/|bookworm-security\n").as_deref(), Some("b/"));
        assert_eq!(security_archive("a/|bookworm\n"), None);
    }

    #[test]
    fn print_uris_lines_are_parsed() {
        let p = Package::parse("'u/libc6_2_s390x.deb' libc6_1%3a2_s390x.deb 12 SHA256:ab").unwrap();
        assert_eq!(
            (p.name.as_str(), p.file.as_str(), p.size, p.sha256.as_str()),
            ("libc6", "libc6_1%3a2_s390x.deb", 12, "ab")
        );
        assert!(Package::parse("'u' f 12 MD5:ab").is_err());
        assert!(Package::parse("'u' f").is_err());
    }
}
