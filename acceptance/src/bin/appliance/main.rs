//! The appliance's image, booted: `make test-image`, or with `--short` the first form of it, with `--only WORD` those with that in their names, with
//! `--update DIRECTORY` the first form, updated to the image there.
//!
//! ```text
//! this machine: CD with settings ─> QEMU: disk of the image, empty data disk ── serial line ─> "ready"
//!               agent with a disk ══ TLS, port 9443 ══> gateway in the appliance ──> S3 on this machine
//!               Terraform, and another machine over iSCSI ────────────┘   (the first form)
//! ```
//! Every boot has another form of the disk, firmware and source of settings; each gateway is told from the serial line alone, trusted by
//! the fingerprint that stands there, and ships what an agent writes; then the appliance is killed, another image boots with the same
//! data disk, and the recovery point in the vault is held against the agent's disk. Emulated: no times but the boot's are measured.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lifeboat_acceptance::command::{CONFLICT, Daemon, Run, UNREACHABLE};
use lifeboat_acceptance::scratch::Scratch;
use lifeboat_acceptance::{binaries, cleanup, eventually, mounts};
use lifeboat_lab::Moto;
use serde_json::Value;

use hosts::Hosts;

mod console;
mod hosts;
mod update;

/// Under emulation on a busy machine a boot takes a minute; one that takes this long doesn't end.
const BOOTS_WITHIN: Duration = Duration::from_secs(600);
const SETTLES_WITHIN: Duration = Duration::from_secs(300);
const DATA_BYTES: u64 = 8 << 30;
const DISK_BYTES: u64 = 8 << 20;
const TOKEN: &str = "5b1a7d0e0c6f4b7a9e8d7c6b5a493827";
/// A port that nothing declares.
const UNDECLARED: u16 = 2222;
const SECRET: &str = "canary-bucket-secret";

/// How an appliance is started.
struct Form {
    name: &'static str,
    /// The end of the disk's file name, and QEMU's word for what it is.
    disk: (&'static str, &'static str),
    uefi: bool,
    /// The controller of the disks.
    controller: Controller,
    settings: Source,
}

/// What a machine may have beyond its form.
#[derive(Default)]
struct More {
    /// CDs besides that of the settings.
    cds: Vec<PathBuf>,
    /// Whether it may restart.
    restarts: bool,
}

#[derive(Clone, Copy)]
enum Controller {
    Virtio,
    /// VMware's.
    Pvscsi,
    /// As Hyper-V's generation 1 and old machines have it.
    Ide,
}

#[derive(Clone, Copy)]
enum Source {
    NoCloud,
    Ovf,
}

const FORMS: [Form; 4] = [
    Form {
        name: "raw, BIOS, virtio, NoCloud",
        disk: ("raw", "raw"),
        uefi: false,
        controller: Controller::Virtio,
        settings: Source::NoCloud,
    },
    Form {
        name: "the OVA's disk, BIOS, pvscsi, OVF environment",
        disk: ("vmdk", "vmdk"),
        uefi: false,
        controller: Controller::Pvscsi,
        settings: Source::Ovf,
    },
    Form {
        name: "VHD, BIOS, IDE, NoCloud",
        disk: ("vhd", "vpc"),
        uefi: false,
        controller: Controller::Ide,
        settings: Source::NoCloud,
    },
    Form {
        name: "VHD, UEFI, virtio, OVF environment",
        disk: ("vhd", "vpc"),
        uefi: true,
        controller: Controller::Virtio,
        settings: Source::Ovf,
    },
];

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (images, which, word) = (args.next(), args.next(), args.next());
    let done = match (images, which.as_deref(), word) {
        (Some(images), None, None) => everything(Path::new(&images), ""),
        (Some(images), Some("--short"), None) => everything(Path::new(&images), FORMS[0].name),
        (Some(images), Some("--update"), Some(newer)) => Scratch::new("appliance")
            .and_then(|scratch| update::tried(Path::new(&images), Path::new(&newer), scratch.path())),
        (Some(images), Some("--only"), Some(word)) => everything(Path::new(&images), &word),
        _ => Err(anyhow::anyhow!(
            "usage: appliance DIRECTORY [--short | --only WORD | --update NEWER]: the directory of `make image`"
        )),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if cleanup::stopping() {
                cleanup::park();
            }
            say(&format!("FAILED: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn say(text: &str) {
    // Whoever closed our output isn't reading; the checks still count.
    drop(writeln!(std::io::stdout().lock(), "{text}"));
}

fn everything(images: &Path, word: &str) -> Result<()> {
    let scratch = Scratch::new("appliance")?;
    match file_ending(images, ".ova") {
        Ok(ova) => {
            package(&ova, scratch.path())?;
            say(&format!("{}: manifest, descriptor and disk are right", ova.display()));
        }
        // A quick image has the raw form alone, which the short test boots.
        Err(error) => ensure!(word == FORMS[0].name, "{error:#}"),
    }
    let forms: Vec<&Form> = FORMS.iter().filter(|form| form.name.contains(word)).collect();
    ensure!(!forms.is_empty(), "no form has {word:?} in its name");
    for (index, form) in forms.into_iter().enumerate() {
        let place = scratch.path().join(index.to_string());
        fs::create_dir(&place)?;
        let folder = if form.disk.0 == "vmdk" { scratch.path() } else { images };
        let image = file_ending(folder, &format!(".{}", form.disk.0))?;
        protect(form, &image, &place).with_context(|| form.name.to_owned())?;
    }
    Ok(())
}

fn file_ending(folder: &Path, end: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    let found = entries.flatten().map(|entry| entry.path()).find(|path| path.to_string_lossy().ends_with(end));
    found.with_context(|| format!("{} has no *{end}: run `make image`", folder.display()))
}

/// Unpacks the OVA and holds its parts against the manifest, against each other and against the rules of XML.
fn package(ova: &Path, to: &Path) -> Result<()> {
    let listed = Run::new("tar").arg("-xvf").arg(ova).arg("-C").arg(to).ok()?;
    let names: Vec<&str> = listed.lines().collect();
    let [descriptor, manifest, disk] = names.as_slice() else { bail!("the OVA has {names:?}") };
    ensure!(descriptor.ends_with(".ovf") && manifest.ends_with(".mf") && disk.ends_with(".vmdk"), "{names:?}");
    let sums = fs::read_to_string(to.join(manifest))?;
    // `SHA256(name)= digits` is what sha256sum calls a line with a tag.
    let tagged: String =
        sums.lines().map(|line| line.replacen("SHA256(", "SHA256 (", 1).replacen(")= ", ") = ", 1) + "\n").collect();
    ensure!(tagged.lines().count() == 2, "the manifest lists not all files: {sums}");
    Run::new("sha256sum").args(["--check", "--strict"]).dir(to).input(tagged).ok()?;
    Run::new("xmllint").arg("--noout").arg(to.join(descriptor)).ok()?;
    Run::new("qemu-img").args(["check", "-f", "vmdk"]).arg(to.join(disk)).ok()?;
    let raw = file_ending(ova.parent().context("a directory")?, ".raw")?;
    Run::new("qemu-img").args(["compare", "-f", "raw", "-F", "vmdk"]).arg(raw).arg(to.join(disk)).ok()?;
    Ok(())
}

/// A machine that runs the appliance.
struct Appliance {
    machine: Daemon,
    /// What came out of the serial line, and where to speak into it.
    serial: PathBuf,
    line: PathBuf,
    /// Leads to port 2222 of the appliance, which nothing declares.
    undeclared: u16,
    management: u16,
    data: u16,
    iscsi: u16,
    nbd: u16,
}

impl Appliance {
    fn start(form: &Form, image: &Path, place: &Path) -> Result<Self> {
        Self::start_with(form, image, place, &More::default())
    }

    fn start_with(form: &Form, image: &Path, place: &Path, more: &More) -> Result<Self> {
        let (management, data, undeclared) = (free_port()?, free_port()?, free_port()?);
        let (iscsi, nbd) = (free_port()?, free_port()?);
        let (serial, line) = (place.join("serial"), place.join("line"));
        drop(fs::remove_file(&serial));
        let overlay = place.join("system.qcow2");
        drop(fs::remove_file(&overlay));
        let backing = fs::canonicalize(image)?;
        Run::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", form.disk.1, "-b"])
            .arg(&backing)
            .arg(&overlay)
            .ok()?;
        let drive = |id: &str, file: &Path, kind: &str| {
            format!("id={id},if=none,format={kind},file={},cache=unsafe", file.display())
        };
        let mut args: Vec<String> = "-accel tcg,tb-size=512 -smp 1 -cpu max -m 1024 -nodefaults -display none"
            .split(' ')
            .map(str::to_owned)
            .collect();
        // A restart that nobody asked for is the end of a test.
        args.extend((!more.restarts).then(|| "-no-reboot".to_owned()));
        for (index, cd) in more.cds.iter().enumerate() {
            let medium = drive(&format!("more{index}"), cd, "raw");
            args.extend(["-drive".to_owned(), format!("{medium},media=cdrom,readonly=on")]);
            args.extend(["-device".to_owned(), format!("ide-cd,drive=more{index},bus=ide.{}", index + 1)]);
        }
        // Old machines have IDE in the chipset; the new one's is AHCI.
        let machine = if matches!(form.controller, Controller::Ide) { "pc" } else { "q35" };
        args.extend(["-machine".to_owned(), machine.to_owned()]);
        args.extend(["-drive".to_owned(), drive("system", &overlay, "qcow2")]);
        args.extend(["-drive".to_owned(), drive("data", &place.join("data.raw"), "raw")]);
        args.extend([
            "-drive".to_owned(),
            format!("{},media=cdrom,readonly=on", drive("cd", &place.join("settings.iso"), "raw")),
        ]);
        let devices: &[&str] = match form.controller {
            Controller::Virtio => {
                &["virtio-blk-pci,drive=system,bootindex=1", "virtio-blk-pci,drive=data", "ide-cd,drive=cd,bus=ide.0"]
            }
            Controller::Pvscsi => &[
                "pvscsi,id=scsi",
                "scsi-hd,drive=system,bus=scsi.0,bootindex=1",
                "scsi-hd,drive=data,bus=scsi.0",
                "ide-cd,drive=cd,bus=ide.0",
            ],
            Controller::Ide => &[
                "ide-hd,drive=system,bus=ide.0,unit=0,bootindex=1",
                "ide-hd,drive=data,bus=ide.0,unit=1",
                "ide-cd,drive=cd,bus=ide.1,unit=0",
            ],
        };
        args.extend(devices.iter().flat_map(|device| ["-device".to_owned(), (*device).to_owned()]));
        if form.uefi {
            // Firmware and its variables: a copy, since it writes there.
            let variables = place.join("vars.fd");
            fs::copy("/usr/share/OVMF/OVMF_VARS_4M.ms.fd", &variables)
                .context("OVMF is missing: run `make deps-image`")?;
            let flash = |file: &str, more: &str| format!("if=pflash,format=raw,file={file}{more}");
            args.extend(["-drive".to_owned(), flash("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd", ",readonly=on")]);
            args.extend(["-drive".to_owned(), flash(&variables.display().to_string(), "")]);
            args.extend(
                ["-global", "driver=cfi.pflash01,property=secure,value=on", "-machine", "smm=on"].map(str::to_owned),
            );
        }
        // Not VMware's vmxnet3 with its controller: over the one that QEMU emulates the appliance is reached, and reaches no storage.
        let net = "virtio-net-pci";
        let forward: String = [(management, 443), (data, 9443), (iscsi, 3260), (nbd, 10809), (undeclared, UNDECLARED)]
            .iter()
            .map(|(here, there)| format!(",hostfwd=tcp:127.0.0.1:{here}-:{there}"))
            .collect();
        let forward = format!("user,id=net{forward}");
        args.extend(["-netdev".to_owned(), forward, "-device".to_owned(), format!("{net},netdev=net")]);
        let both = format!("socket,id=line,path={},server=on,wait=off,logfile={}", line.display(), serial.display());
        args.extend(["-chardev".to_owned(), both, "-serial".to_owned(), "chardev:line".to_owned()]);
        let args: Vec<OsString> = args.into_iter().map(OsString::from).collect();
        let machine =
            Daemon::start("the appliance", Path::new("qemu-system-x86_64"), &args, &[], &place.join("qemu.log"))?;
        Ok(Self { machine, serial, line, undeclared, management, data, iscsi, nbd })
    }

    /// What stands on the serial line.
    fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.serial).unwrap_or_default()).into_owned()
    }

    /// Its last lines.
    fn tail(&self) -> String {
        self.said().lines().rev().take(40).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Waits until it says that it is ready; the fingerprint that it says.
    fn ready(&self) -> Result<String> {
        eventually("the appliance to be ready", BOOTS_WITHIN, || {
            if let Some(status) = self.machine.ended()? {
                bail!("the machine ended with {status}: {}", self.machine.log_tail(20));
            }
            let said = self.said();
            if let Some(line) = said.lines().find(|line| line.contains("lifeboat: not started")) {
                bail!("{line}");
            }
            Ok(said.contains("lifeboat: ready: https://").then_some(()))
        })
        .with_context(|| self.tail())?;
        let said = self.said();
        let fingerprint =
            said.lines().find_map(|line| line.split("fingerprint is ").nth(1)).context("no fingerprint")?;
        Ok(fingerprint.trim().to_owned())
    }

    fn endpoint(&self) -> String {
        format!("https://127.0.0.1:{}", self.management)
    }

    /// Takes the authority's certificate from a connection, if it is the one with this fingerprint.
    fn trust(&self, fingerprint: &str, to: &Path) -> Result<()> {
        let at = format!("127.0.0.1:{}", self.management);
        let shown = Run::new("openssl").args(["s_client", "-showcerts", "-connect", &at]).input("").outcome()?.stdout;
        let last = shown.rfind("-----BEGIN CERTIFICATE-----").context("no certificate is shown")?;
        fs::write(to, shown.get(last..).unwrap_or_default())?;
        let print = Run::new("openssl").args(["x509", "-noout", "-fingerprint", "-sha256", "-in"]).arg(to).ok()?;
        ensure!(print.trim().ends_with(fingerprint), "{print} is shown, and {fingerprint} stands on the console");
        Ok(())
    }
}

/// A port that nobody has now.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// The CD that a hypervisor hands over.
fn settings(source: Source, place: &Path) -> Result<()> {
    let files = place.join("cd");
    fs::create_dir(&files)?;
    let said = [("name", "gw-test"), ("site", "onprem"), ("admin_token", TOKEN), ("allow_http_storage", "true")];
    match source {
        Source::NoCloud => {
            let lines: String = said.iter().map(|(key, value)| format!("  {key}: {value}\n")).collect();
            fs::write(files.join("user-data"), format!("#cloud-config\nlifeboat:\n{lines}"))?;
            fs::write(files.join("meta-data"), "instance-id: i-1\nlocal-hostname: another\n")?;
        }
        Source::Ovf => {
            let lines: String = said
                .iter()
                .map(|(key, value)| format!("    <Property oe:key=\"lifeboat.{key}\" oe:value=\"{value}\"/>\n"))
                .collect();
            let schema = "http://schemas.dmtf.org/ovf/environment/1";
            fs::write(
                files.join("ovf-env.xml"),
                format!(
                    "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Environment xmlns=\"{schema}\" xmlns:oe=\"{schema}\" oe:id=\"\">\n  <PropertySection>\n{lines}  </PropertySection>\n</Environment>\n"
                ),
            )?;
        }
    }
    let label = if matches!(source, Source::NoCloud) { "cidata" } else { "OVF ENV" };
    let iso = place.join("settings.iso");
    Run::new("xorriso")
        .args(["-as", "mkisofs", "-quiet", "-J", "-r", "-V", label, "-o"])
        .arg(&iso)
        .arg(&files)
        .ok()
        .map(drop)
}

/// Boots one, protects a disk through it, kills it, boots another one with its data disk, and proves the point in the vault.
fn protect(form: &Form, image: &Path, place: &Path) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let moto = runtime.block_on(Moto::start(&["vaults"]))?;
    File::create(place.join("data.raw"))?.set_len(DATA_BYTES)?;
    settings(form.settings, place)?;
    let begun = Instant::now();
    let appliance = Appliance::start(form, image, place)?;
    let fingerprint = appliance.ready()?;
    let ready = begun.elapsed();
    let authority = place.join("ca.pem");
    appliance.trust(&fingerprint, &authority)?;
    // The guest reaches this machine's loopback there.
    let storage = format!("http://10.0.2.2:{}", moto.address().port());
    let passphrase = "a passphrase of a test";
    let variables = BTreeMap::from([
        ("LIFEBOAT_TOKEN", TOKEN.to_owned()),
        ("LIFEBOAT_CA_CERT", authority.display().to_string()),
        ("LIFEBOAT_ENDPOINT", appliance.endpoint()),
        ("LIFEBOAT_VAULT_PASSPHRASE", passphrase.to_owned()),
        ("AWS_ACCESS_KEY_ID", "AKLAB".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
        ("AWS_ENDPOINT_URL_S3", moto.endpoint()),
        ("LIFEBOAT_ALLOW_HTTP_STORAGE", "1".to_owned()),
    ]);
    let program = binaries::lifeboat()?;
    let lifeboat = |arguments: &[&str]| {
        let run = Run::new(&program).args(arguments).within(SETTLES_WITHIN);
        variables.iter().fold(run, |run, (name, value)| run.env(name, value))
    };
    // Emulated, and with a passphrase that takes its time on purpose, an answer may come too late: it was done all the same, or is done
    // again.
    let declare = |arguments: &[&str]| {
        let mut asked = 0;
        eventually(&format!("an answer to {}", arguments.join(" ")), SETTLES_WITHIN, || {
            asked += 1;
            let outcome = lifeboat(arguments).outcome()?;
            match outcome.code() {
                0 => Ok(Some(())),
                UNREACHABLE => Ok(None),
                CONFLICT if asked > 1 => Ok(Some(())),
                _ => Err(outcome.failure()),
            }
        })
    };
    // The first form has it from Terraform, and a volume that another machine uses; the others from the command line.
    let mut hosts = None;
    if form.name == FORMS[0].name {
        let declared = Hosts::declare(&appliance, place, &authority, &storage, &variables);
        hosts = Some(declared.with_context(|| appliance.tail())?);
    } else {
        let credentials = ["--credential", "AWS_ACCESS_KEY_ID", "--credential", "AWS_SECRET_ACCESS_KEY"];
        let create = ["vault", "create", "s3://vaults/acme", "--name", "main", "--storage-endpoint", &storage];
        declare(&[&create[..], &credentials].concat())?;
        declare(&["site", "create", "--name", "onprem", "--vault", "main"])?;
        declare(&["gateway", "create", "--name", "gw-test", "--site", "onprem"])?;
        declare(&["policy", "create", "--name", "gold", "--vault", "main", "--interval", "5s", "--retain", "all:1h"])?;
    }

    // An agent on this machine, whose disk goes through the appliance.
    let key = lifeboat(&["registration-key", "create", "--site", "onprem", "--name", "web", "--ttl", "10m"]).ok()?;
    let text = |name: &str| place.join(name).display().to_string();
    let (state, mount, raw) = (text("agent"), text("mnt"), text("disk.raw"));
    let endpoint = appliance.endpoint();
    let enrol = ["agent", "enrol", "--endpoint", &endpoint, "--key-file", "-", "--name", "web", "--state", &state];
    lifeboat(&enrol).input(key).ok()?;
    fs::create_dir(&mount)?;
    File::create(&raw)?.set_len(DISK_BYTES)?;
    let (disk, server) = (format!("data={raw}"), format!("127.0.0.1:{}", appliance.data));
    let run =
        ["agent", "run", "--state", &state, "--mount", &mount, "--disk", &disk, "--group", "web", "--policy", "gold"];
    let to = ["--process-server", &server, "--endpoint", &endpoint];
    let args: Vec<OsString> = [&run[..], &to].concat().into_iter().map(OsString::from).collect();
    let below = PathBuf::from(&mount);
    let _unmount = cleanup::defer("unmount the agent's disk", move || mounts::unmount_below(&below));
    let agent = Daemon::start("agent", &program, &args, &[], &place.join("agent.log"))?;
    let volume = Path::new(&mount).join("volumes/data.img");
    eventually("the disk to be mounted", SETTLES_WITHIN, || Ok(volume.exists().then_some(())))
        .with_context(|| agent.log_tail(30))?;
    let file = File::options().write(true).open(&volume)?;
    file.write_all_at(&[0x5a; 4096], 1 << 20)?;
    file.sync_all()?;
    drop(file);
    shipped(&state, &agent)?;
    let first = begun.elapsed();
    let taken = lifeboat(&["point", "take", "--group", "web", "--label", "first"]).outcome()?;
    ensure!(taken.status.success(), "{:#}\n{}", taken.failure(), agent.log_tail(30));

    let walked = (form.name == FORMS[0].name).then(|| {
        let bundle =
            |to: &Path| lifeboat(&["support-bundle", "--fetch", "--to", &to.display().to_string()]).ok().map(drop);
        console::walk(&appliance, place, &bundle)
    });
    let memory = walked.transpose().with_context(|| appliance.tail())?;

    if let Some(hosts) = &mut hosts {
        hosts.write(&appliance).with_context(|| appliance.tail())?;
        lifeboat(&["point", "take", "--group", "datastore", "--label", "first"]).ok()?;
    }

    // The machine is lost, and so is its system's disk; a fresh one finds everything on the data disk.
    appliance.machine.kill9()?;
    drop(appliance);
    let again = Appliance::start(form, image, place)?;
    ensure!(again.ready()? == fingerprint, "the gateway has another identity");
    ensure!(!again.said().contains(TOKEN) && !again.said().contains(SECRET), "a secret stands on the console");
    if memory.is_some() {
        console::kept(&again)?;
    }
    drop(agent);
    mounts::unmount_below(Path::new(&mount));
    let verify = ["point", "verify", "latest", "--group", "web", "--vault", "s3://vaults/acme", "--source", &raw];
    lifeboat(&verify).ok()?;
    if let Some(hosts) = &hosts {
        let image = hosts.image();
        let verify =
            ["point", "verify", "latest", "--group", "datastore", "--vault", "s3://vaults/acme", "--source", &image];
        lifeboat(&verify).ok()?;
        hosts.found_again(&again, &authority, &storage).with_context(|| again.tail())?;
    }
    let asked = ["status", "--output", "json", "--endpoint", &again.endpoint()];
    let status = eventually("the gateway's status", SETTLES_WITHIN, || {
        let outcome = lifeboat(&asked).outcome()?;
        if outcome.code() == UNREACHABLE { Ok(None) } else { outcome.ok().map(Some) }
    })?;
    let status: Value = serde_json::from_str(&status)?;
    ensure!(
        status["vaults"].as_array().is_none_or(|vaults| !vaults.is_empty()),
        "the gateway forgot its vault: {status}"
    );
    say(&format!(
        "{}: ready after {:.0} s, a first write shipped after {:.0} s; killed, replaced, and the point is what the disk has{}",
        form.name,
        ready.as_secs_f64(),
        first.as_secs_f64(),
        memory.map(|memory| format!("; on the console: {memory}")).unwrap_or_default()
    ));
    Ok(())
}

/// Waits until everything durable at the agent is in the vault.
fn shipped(state: &str, agent: &Daemon) -> Result<()> {
    let path = Path::new(state).join("status.json");
    eventually("the write to be in the vault", SETTLES_WITHIN, || {
        let status: Option<Value> = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let number = |name: &str| status.as_ref().and_then(|status| status[name].as_u64());
        Ok(number("durable")
            .zip(number("shipped"))
            .filter(|(durable, shipped)| *durable > 0 && shipped >= durable)
            .map(drop))
    })
    .with_context(|| agent.log_tail(30))
}
