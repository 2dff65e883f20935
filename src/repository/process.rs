//! Processes, told apart across machines, restarts and containers: `<boot id> <pid namespace> <pid> <start time>`.

#[cfg(target_os = "linux")]
pub(super) use linux::{has_ended, own};
#[cfg(not(target_os = "linux"))]
pub(super) use unknown::{has_ended, own};

#[cfg(target_os = "linux")]
mod linux {
    use std::fs;

    fn place() -> Option<String> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
        Some(format!("{} {}", boot.trim(), namespace.display()))
    }

    /// Field 22 of `stat`: ticks since boot. The name, field 2, may hold anything but ends at the last parenthesis.
    fn start(pid: u32) -> Option<String> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(19).map(str::to_owned)
    }

    pub(in super::super) fn own() -> Option<String> {
        let pid = std::process::id();
        Some(format!("{} {pid} {}", place()?, start(pid)?))
    }

    /// True only where it is certain: same start of the same machine, same container, and no such process.
    pub(in super::super) fn has_ended(recorded: &str) -> bool {
        let ended = || {
            let mut fields = recorded.rsplitn(3, ' ');
            let (started, pid) = (fields.next()?, fields.next()?.parse().ok()?);
            // Where other users' processes are hidden, so is the first one.
            Some(fields.next()? == place()? && start(1).is_some() && start(pid).is_none_or(|s| s != started))
        };
        ended().unwrap_or(false)
    }
}

#[cfg(not(target_os = "linux"))]
mod unknown {
    pub(in super::super) fn own() -> Option<String> {
        None
    }

    pub(in super::super) fn has_ended(_: &str) -> bool {
        false
    }
}

/// This machine's name, for people.
pub(super) fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| {
        let output = std::process::Command::new("hostname").output().ok()?;
        String::from_utf8(output.stdout).ok()
    });
    name.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).unwrap_or_else(|| "unknown".to_owned())
}
