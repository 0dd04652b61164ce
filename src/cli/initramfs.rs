//! A small Linux user space in an initial RAM disk: busybox, an init of our own, a shell on the kernel's console.

use crate::cli::cpio::Archive;

/// What init prints when the shell is about to start.
pub const READY: &str = "softmetal: the guest is up";

/// The applets of Debian's busybox-static that get a link in /bin: what a shell session and a test want.
const APPLETS: &[&str] = &[
    "[",
    "acpid",
    "ash",
    "awk",
    "base64",
    "basename",
    "bc",
    "bzip2",
    "cat",
    "chmod",
    "chown",
    "clear",
    "cmp",
    "cp",
    "cut",
    "date",
    "dc",
    "dd",
    "devmem",
    "df",
    "diff",
    "dirname",
    "dmesg",
    "du",
    "echo",
    "env",
    "expr",
    "factor",
    "false",
    "find",
    "fold",
    "free",
    "grep",
    "gunzip",
    "gzip",
    "halt",
    "head",
    "hexdump",
    "hostname",
    "hwclock",
    "id",
    "ifconfig",
    "insmod",
    "ip",
    "kill",
    "killall",
    "less",
    "ln",
    "ls",
    "lsmod",
    "md5sum",
    "mkdir",
    "mkfifo",
    "mknod",
    "mktemp",
    "more",
    "mount",
    "mv",
    "nc",
    "nproc",
    "od",
    "ping",
    "pidof",
    "poweroff",
    "printf",
    "ps",
    "pwd",
    "readlink",
    "reboot",
    "renice",
    "reset",
    "rev",
    "rm",
    "rmdir",
    "rmmod",
    "sed",
    "seq",
    "setsid",
    "sh",
    "sha1sum",
    "sha256sum",
    "sha512sum",
    "shuf",
    "sleep",
    "sort",
    "stat",
    "strings",
    "stty",
    "sync",
    "sysctl",
    "tail",
    "tar",
    "taskset",
    "tee",
    "test",
    "time",
    "timeout",
    "top",
    "touch",
    "tr",
    "true",
    "tty",
    "udhcpc",
    "umount",
    "uname",
    "uniq",
    "unxz",
    "unzip",
    "uptime",
    "usleep",
    "vi",
    "watch",
    "wc",
    "wget",
    "which",
    "xargs",
    "xxd",
    "xz",
    "yes",
    "zcat",
];

/// Runs as process 1. `setsid` and opening the console by name make it the shell's controlling terminal: job control. A
/// console whose driver is a module comes when the modules are there: only then can it be opened. Modules get the parameters
/// that stand on the kernel's command line.
/// The power button arrives as an input event, which acpid turns into the script below. Once the shell is there, only
/// errors of the kernel reach the console.
const INIT: &str = r#"#!/bin/sh
export PATH=/bin HOME=/root TERM=linux
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
read -r line </proc/cmdline
for module in /lib/modules/*.ko; do
  name=${module##*/[0-9][0-9]-}
  set --
  for word in $line; do case $word in "${name%.ko}".*) set -- "$@" "${word#*.}" ;; esac; done
  [ -e "$module" ] && insmod "$module" "$@"
done
tty=ttyS0
if grep -q hvc0 /sys/class/tty/console/active; then
  tty=hvc0
  exec <>/dev/console >&0 2>&1
fi
[ -e /dev/input/event0 ] && acpid -l /dev/null -p /run/acpid.pid
[ -x /etc/rc ] && . /etc/rc
dmesg -n 4
echo "softmetal: the guest is up"
setsid sh -c "exec sh -l <>/dev/$tty >&0 2>&1"
poweroff -f
"#;

const POWER_BUTTON: &str = "#!/bin/sh\necho 'softmetal: power button' >/dev/console\npoweroff -f\n";
const PROFILE: &str = "cd /root\nPS1='# '\n";

/// What goes into the RAM disk.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// A static busybox for x86-64.
    pub busybox: Vec<u8>,
    /// Kernel modules that init loads, in this order by their name: a name with its `.ko`, and the content.
    pub modules: Vec<(String, Vec<u8>)>,
    /// A shell script that init runs before it starts the shell.
    pub script: Option<String>,
    /// Further files, executable: path without the leading slash, and content. Their folders must exist.
    pub files: Vec<(String, Vec<u8>)>,
}

impl Contents {
    /// The RAM disk as an uncompressed cpio archive.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let mut archive = Archive::default();
        for name in [
            "bin",
            "dev",
            "etc",
            "etc/acpi",
            "etc/acpi/PWRF",
            "lib",
            "lib/modules",
            "mnt",
            "proc",
            "root",
            "run",
            "sys",
            "tmp",
        ] {
            archive.directory(name);
        }
        archive.character_device("dev/console", 5, 1);
        archive.file("bin/busybox", 0o755, &self.busybox);
        for applet in APPLETS {
            archive.symlink(&format!("bin/{applet}"), "busybox");
        }
        archive.file("init", 0o755, INIT.as_bytes());
        archive.file("etc/profile", 0o644, PROFILE.as_bytes());
        archive.file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n");
        archive.file("etc/group", 0o644, b"root:x:0:\n");
        archive.file("etc/acpi/PWRF/00000080", 0o755, POWER_BUTTON.as_bytes());
        for (name, content) in &self.modules {
            archive.file(&format!("lib/modules/{name}"), 0o644, content);
        }
        if let Some(script) = &self.script {
            archive.file("etc/rc", 0o755, script.as_bytes());
        }
        for (name, content) in &self.files {
            archive.file(name, 0o755, content);
        }
        archive.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn init_prints_the_marker_that_tests_wait_for() {
        assert!(INIT.contains(&format!("echo \"{READY}\"\n")));
    }

    #[test]
    fn the_archive_holds_all_that_was_asked_for() {
        let contents = Contents {
            busybox: b"ELF".to_vec(),
            modules: vec![("button.ko".into(), b"MODULE".to_vec())],
            script: Some("true\n".into()),
            files: vec![("root/note".into(), b"hello".to_vec())],
        };
        let text = String::from_utf8(contents.build()).unwrap();
        for name in
            ["init\0", "bin/sh\0", "bin/busybox\0", "lib/modules/button.ko\0", "etc/rc\0", "root/note\0"]
        {
            assert!(text.contains(name), "{name}");
        }
        assert!(text.contains("TRAILER!!!"));
    }
}
