//! Programs that compute and check themselves, in a guest and on the host: the C library's mathematics, OpenSSL, stress-ng,
//! Python's own tests. What the guest prints must be what the host prints.
//!
//! The programs are Debian's, by apt; the one for the C library is built by the host's C compiler. Where that cannot work, the
//! tests are ignored and say so.
//!
//! `NUMERIC_COUNT=10000000 cargo test --release --test numeric -- mathematics` asks for so many arguments of each function.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::{Guest, Named, Options, initramfs, kernel, packages, run, trials};
use softmetal::cli::cpio::Archive;
use softmetal::cli::debian::{Flavour, Guests};
use tempfile::TempDir;

/// For a boot with a large RAM disk, on a busy host.
const BOOT: Duration = Duration::from_secs(240);
/// For the longest of the programs.
const LONG: Duration = Duration::from_secs(7200);

/// The source of the program for the C library, in this folder.
const SOURCE: &str = "tests/guest/numeric.c";
/// Arguments of each function where nobody asks for more.
const COUNT: &str = "20000";

/// The packages of each program: its own and those of its libraries.
const OPENSSL: &[&str] = &["libc6", "libssl3", "openssl"];
const PYTHON: &[&str] = &[
    "libc6",
    "libssl3",
    "libexpat1",
    "zlib1g",
    "python3.11-minimal",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "libpython3.11-testsuite",
];
const STRESS_NG: &[&str] = &[
    "libc6",
    "stress-ng",
    "libapparmor1",
    "libbsd0",
    "libcrypt1",
    "libdrm2",
    "libegl1",
    "libexpat1",
    "libffi8",
    "libgbm1",
    "libgles2",
    "libglvnd0",
    "libipsec-mb1",
    "libjpeg62-turbo",
    "libjudydebian1",
    "libkmod2",
    "liblzma5",
    "libmd0",
    "libsctp1",
    "libssl3",
    "libwayland-server0",
    "libxxhash0",
    "libzstd1",
    "zlib1g",
];

/// What OpenSSL does: digests, ciphers, keys and signatures of data that a command line gives.
const OPENSSL_SCRIPT: &str = r#"
data() { seq 1 5000; }
for name in md5 sha1 sha224 sha256 sha384 sha512 sha3-256 shake256 blake2b512 blake2s256 sm3 rmd160; do
    printf '%s ' $name; data | $OPENSSL dgst -r -$name
done
for name in aes-128-cbc aes-192-cbc aes-256-cbc aes-128-ctr aes-256-ctr aes-128-cfb aes-256-ofb aes-256-cfb8 \
    camellia-256-cbc aria-256-ctr chacha20 des-ede3-cbc sm4-ctr; do
    printf '%s ' $name
    data | $OPENSSL enc -$name -K 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f \
        -iv 0f0e0d0c0b0a09080706050403020100 2>/dev/null | $OPENSSL dgst -r -sha256
done
printf 'hmac '; data | $OPENSSL dgst -r -sha512 -hmac key
printf 'cmac '; data | $OPENSSL mac -cipher aes-128-cbc -macopt hexkey:000102030405060708090a0b0c0d0e0f CMAC
printf 'gmac '; data | $OPENSSL mac -cipher aes-256-gcm \
    -macopt hexkey:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f \
    -macopt hexiv:000102030405060708090a0b GMAC
printf 'poly1305 '; data | $OPENSSL mac \
    -macopt hexkey:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f Poly1305
printf 'kdf '; $OPENSSL kdf -keylen 32 -kdfopt digest:SHA256 -kdfopt pass:secret -kdfopt salt:salt -kdfopt iter:1000 PBKDF2
$OPENSSL prime 170141183460469231731687303715884105727 170141183460469231731687303715884105729
for key in 'rsa -pkeyopt rsa_keygen_bits:1024' 'ec -pkeyopt ec_paramgen_curve:P-256' 'ec -pkeyopt ec_paramgen_curve:P-384' \
    ed25519 ed448; do
    $OPENSSL genpkey -algorithm $key -out /tmp/key 2>/dev/null && $OPENSSL pkey -in /tmp/key -pubout -out /tmp/public
    echo text >/tmp/text
    $OPENSSL pkeyutl -sign -rawin -inkey /tmp/key -in /tmp/text -out /tmp/signature
    $OPENSSL pkeyutl -verify -rawin -pubin -inkey /tmp/public -in /tmp/text -sigfile /tmp/signature
done
rm -f /tmp/key /tmp/public /tmp/text /tmp/signature
"#;

fn main() -> ExitCode {
    let tests: &[Named] = &[
        ("mathematics_of_the_c_library", mathematics),
        ("openssl", openssl),
        ("stress_ng_cpu", stress_ng),
        ("python", python),
    ];
    let hindrance = Guests::hindrance()
        .map(|why| format!("Debian's packages cannot be fetched: {why}"))
        .or_else(|| (!cfg!(target_arch = "x86_64")).then(|| "the host runs no x86-64 programs".to_owned()));
    run(trials(tests, hindrance.as_deref()))
}

/// No documentation, and of Python's tests those that run here.
fn wanted(name: &str) -> bool {
    const TESTS: &str = "usr/lib/python3.11/test/";
    if let Some(test) = name.strip_prefix(TESTS) {
        let wanted = [
            "test_float",
            "test_grammar",
            "typinganndata",
            "ann_module",
            "test_math",
            "test_cmath",
            "test_hashlib",
            "math_testcases",
            "formatfloat_testcases",
            "cmath_testcases",
        ];
        let machinery =
            ["__init__", "__main__", "regrtest", "libregrtest", "support", "ieee754", "floating_points"];
        return wanted.iter().chain(&machinery).any(|known| test.starts_with(known));
    }
    !(name.starts_with("usr/share")
        || name.contains("gconv")
        || name.contains("idlelib")
        || name.contains("/ctypes/test"))
}

/// A kernel and a RAM disk; the folder goes with the value.
struct Setup {
    options: Options,
    _folder: TempDir,
}

fn setup(more: Archive) -> Result<Setup> {
    let kernel = kernel(Flavour::Cloud)?;
    let folder = tempfile::tempdir()?;
    let initrd = initramfs(&kernel, folder.path(), None, false)?;
    // The kernel unpacks one archive after the other.
    let mut bytes = fs::read(&initrd)?;
    bytes.extend(more.finish());
    fs::write(&initrd, bytes)?;
    let options = Options { kernel: kernel.image, initrd: Some(initrd), memory: "1G", ..Options::default() };
    Ok(Setup { options, _folder: folder })
}

/// What a shell command prints on the host.
fn on_host(script: &str) -> Result<String> {
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).stdin(Stdio::null());
    let output = command.output().context("cannot start sh")?;
    ensure!(output.status.success(), "on the host: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// Compares line by line, so that a failure names what differs.
fn same(guest: &str, host: &str) -> Result<()> {
    let different: Vec<String> = guest
        .lines()
        .zip(host.lines())
        .filter(|(guest, host)| guest.trim_end() != host.trim_end())
        .map(|(guest, host)| format!("guest: {guest}\nhost:  {host}"))
        .collect();
    ensure!(different.is_empty(), "{} lines differ:\n{}", different.len(), different.join("\n"));
    let (ours, theirs) = (guest.lines().count(), host.lines().count());
    ensure!(ours == theirs && theirs > 0, "the guest prints {ours} lines, the host {theirs}:\n{guest}");
    Ok(())
}

fn mathematics() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let program = folder.path().join("numeric");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(SOURCE);
    let mut command = Command::new("gcc");
    command.args(["-O2", "-Wall", "-Wextra", "-Werror", "-static", "-frounding-math", "-s", "-o"]);
    let status = command.arg(&program).arg(source).arg("-lm").status().context("cannot start gcc")?;
    ensure!(status.success(), "{SOURCE} does not compile");
    let count = std::env::var("NUMERIC_COUNT").unwrap_or_else(|_| COUNT.to_owned());
    let host = on_host(&format!("{} {count}", program.display()))?;
    let mut more = Archive::default();
    more.file("numeric", 0o755, &fs::read(&program)?);
    let setup = setup(more)?;
    let mut guest = Guest::boot(&setup.options, BOOT)?;
    let ours = guest.run(&format!("/numeric {count}"), LONG)?;
    same(&ours, &host)?;
    guest.power_off()
}

fn openssl() -> Result<()> {
    let root = packages(OPENSSL)?;
    let mut more = Archive::default();
    root.archive(&mut more, &wanted)?;
    more.file("script", 0o755, format!("OPENSSL=/usr/bin/openssl\n{OPENSSL_SCRIPT}").as_bytes());
    let setup = setup(more)?;
    let host = on_host(&format!("OPENSSL='{}'\n{OPENSSL_SCRIPT}", root.host_command("usr/bin/openssl")?))?;
    let mut guest = Guest::boot(&setup.options, BOOT)?;
    let ours = guest.run("sh /script", LONG)?;
    same(&ours, &host)?;
    // It checks what it measures.
    let speed = guest.run("/usr/bin/openssl speed -seconds 1 -bytes 1024 -evp aes-256-gcm 2>&1", LONG)?;
    ensure!(speed.contains("AES-256-GCM") || speed.contains("aes-256-gcm"), "openssl speed says {speed}");
    guest.power_off()
}

fn stress_ng() -> Result<()> {
    let root = packages(STRESS_NG)?;
    let mut more = Archive::default();
    root.archive(&mut more, &wanted)?;
    let setup = setup(more)?;
    let mut guest = Guest::boot(&setup.options, BOOT)?;
    let command = "/usr/bin/stress-ng --temp-path /tmp --verify --cpu 1 --cpu-method all --cpu-ops 85 2>&1";
    let says = guest.run(command, LONG)?;
    ensure!(says.contains("successful run completed"), "stress-ng says {says}");
    ensure!(!says.contains("fail"), "stress-ng says {says}");
    guest.power_off()
}

fn python() -> Result<()> {
    let root = packages(PYTHON)?;
    let mut more = Archive::default();
    root.archive(&mut more, &wanted)?;
    let setup = setup(more)?;
    let mut guest = Guest::boot(&setup.options, BOOT)?;
    let command = "/usr/bin/python3.11 -m test test_float test_math test_cmath test_hashlib 2>&1";
    let says = guest.run(command, LONG)?;
    ensure!(
        says.contains("Tests result: SUCCESS") || says.contains("== Tests result: SUCCESS =="),
        "python says {says}"
    );
    guest.power_off()
}
