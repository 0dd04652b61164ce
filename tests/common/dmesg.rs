//! What kernels warn of, and which warnings are right.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::Guest;

/// For printing the log.
const SOON: Duration = Duration::from_secs(60);

/// Every warning of the kernel is on the list, with its reason.
pub(crate) fn check_warnings(guest: &mut Guest) -> Result<()> {
    let allowed = allowed_warnings(include_str!("../dmesg-allowed.txt"))?;
    let log = guest.run("dmesg -r", SOON)?;
    let warnings = log.lines().filter(|line| level(line).is_some_and(|level| level <= 4));
    let unexpected: Vec<&str> =
        warnings.filter(|line| !allowed.iter().any(|text| line.contains(text))).collect();
    ensure!(unexpected.is_empty(), "the kernel warns:\n{}", unexpected.join("\n"));
    Ok(())
}

/// The level of a line of `dmesg -r`: the lower three bits of the number in front.
fn level(line: &str) -> Option<u32> {
    let (number, _) = line.strip_prefix('<')?.split_once('>')?;
    number.parse().ok().map(|number: u32| number & 7)
}

/// The texts of the list. Each stands below a comment that gives its reason.
fn allowed_warnings(list: &str) -> Result<Vec<&str>> {
    let mut texts = Vec::new();
    let mut reason = false;
    for line in list.lines() {
        if line.is_empty() {
            reason = false;
        } else if line.starts_with('#') {
            reason = true;
        } else {
            ensure!(reason, "dmesg-allowed.txt gives no reason for {line:?}");
            texts.push(line);
        }
    }
    Ok(texts)
}
