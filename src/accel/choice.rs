//! Which engine a machine begins with.

use std::path::PathBuf;
use std::time::Duration;

use softmetal_cpu::Lacking;

use super::{SOFTWARE, kvm};
use crate::config::{Accel, ClockSource, Config, UseError};
use crate::statistics::Sampling;

/// How long the probe of KVM may take: it takes milliseconds, on a busy host some hundred.
const DEADLINE: Duration = Duration::from_millis(900);

/// Asks the probe for a guest that never ends, to see that it is noticed: any value.
const FOR_EVER: &str = "SOFTMETAL_PROBE_FOR_EVER";

/// Why a machine needs our own engines, and no other.
pub(crate) fn needs_own_engine(config: &Config) -> Option<&'static str> {
    match () {
        () if config.record.is_some() => Some("--record needs one that counts instructions"),
        () if config.replay.is_some() => Some("--replay needs one that counts instructions"),
        () if config.lockstep.is_some() => Some("--debug lockstep has two of its own"),
        () if config.clock == ClockSource::Instructions => {
            Some("--clock instructions needs one that counts instructions")
        }
        () if !config.watch.is_empty() => Some("--watch needs one that sees each access"),
        () if config.sampling() == Sampling::Code => {
            Some("--debug profile needs one that sees the guest's code")
        }
        () => None,
    }
}

/// What the processor lacks of its model because of KVM, which runs the machine or, with `leak=on`, may come to.
pub(crate) fn lacking(config: &Config) -> Result<Lacking, UseError> {
    if config.accel != Accel::Kvm && !config.leak {
        return Ok(Lacking::default());
    }
    match kvm::lacking(config.cpu) {
        Ok(leaks) => {
            let wrong = describe(config, &leaks, &[]).filter(|_| !config.leak);
            wrong.map_or(Ok(leaks.without), |what| Err(UseError::new(format!("--accel kvm: {what}"))))
        }
        Err(error) if config.accel == Accel::Kvm => Err(UseError::new(format!("--accel kvm: {error}"))),
        // It will run with our own engines, and can never leave them.
        Err(_) => Ok(Lacking::default()),
    }
}

/// What is known of the TSC of a machine that KVM runs, or may come to run.
pub(crate) fn tsc(config: &Config) -> Option<kvm::TscFacts> {
    let may = (config.accel == Accel::Kvm || config.leak) && needs_own_engine(config).is_none();
    may.then(|| kvm::tsc_facts().ok()).flatten()
}

/// What is wrong with a processor model under KVM, if anything is.
fn describe(config: &Config, leaks: &kvm::Leaks, leaked: &[String]) -> Option<String> {
    let model = config.cpu.name();
    let names = |list: &[softmetal_cpu::FeatureBit]| {
        list.iter().map(|feature| feature.name.to_uppercase()).collect::<Vec<_>>().join(", ")
    };
    let mut parts = Vec::new();
    if !leaks.lacking.is_empty() {
        parts.push(format!("it lacks {}", names(&leaks.lacking)));
    }
    if !leaks.unoffered.is_empty() {
        parts.push(format!("it does not offer {}, which the processor has", names(&leaks.unoffered)));
    }
    if !leaked.is_empty() {
        parts.push(format!("it shows user code CPUID bits that the model has not: {}", leaked.join(", ")));
    }
    let what = parts.join("; ");
    (!parts.is_empty()).then(|| {
        format!("this host's KVM is not right for --cpu {model}: {what}; --cpu {model},leak=on accepts that")
    })
}

/// Decides what `--accel` leaves open; with what and why, a line. An engine that was asked for and cannot serve is an error.
pub(crate) fn decide(config: Config) -> Result<(Config, Option<String>), UseError> {
    match config.accel {
        Accel::Auto => {
            let (accel, why) = match suits(&config) {
                Ok(()) => (Accel::Kvm, "this host's KVM serves".to_owned()),
                Err(why) if config.host_cpu => return Err(no_host_processor(&why)),
                // What follows a log, or another engine, is asked for by name where it is to be the translator.
                Err(why)
                    if config.lockstep.is_some() || config.record.is_some() || config.replay.is_some() =>
                {
                    (Accel::Interp, why)
                }
                Err(why) => (SOFTWARE, why),
            };
            let line = format!("--accel auto takes {}: {why}", accel.name());
            Ok((Config { accel, automatic: true, ..config }, Some(line)))
        }
        Accel::Kvm => {
            let wrong = |why: String| UseError::new(format!("--accel kvm: {why}"));
            if let Some(why) = needs_own_engine(&config) {
                return Err(wrong(why.into()));
            }
            let findings = probe().map_err(wrong)?;
            enough_processors(&config, &findings).map_err(wrong)?;
            if let Some(what) = flaws(&config, &findings).map_err(wrong)? {
                if !config.leak {
                    return Err(wrong(what));
                }
                log::warn!("{what}");
            }
            Ok((config, None))
        }
        accel @ (Accel::Interp | Accel::Jit) if config.host_cpu => {
            Err(no_host_processor(&format!("--accel {} has processors of its own", accel.name())))
        }
        Accel::Interp | Accel::Jit => Ok((config, None)),
    }
}

fn no_host_processor(why: &str) -> UseError {
    UseError::new(format!(
        "--cpu host is for KVM alone: {why}; --cpu max has everything that softmetal can do on any host"
    ))
}

/// Whether KVM is the best for this machine; why not.
fn suits(config: &Config) -> Result<(), String> {
    if let Some(why) = needs_own_engine(config) {
        return Err(why.into());
    }
    let findings = probe()?;
    if findings.is_software() {
        return Err(format!(
            "this host's KVM is an imitation in software, {:.0} ns an instruction",
            findings.nanoseconds
        ));
    }
    enough_processors(config, &findings)?;
    match flaws(config, &findings)? {
        Some(what) if !config.leak => Err(what),
        _ => Ok(()),
    }
}

fn enough_processors(config: &Config, findings: &kvm::Findings) -> Result<(), String> {
    match findings.processors {
        most if most < config.cpus as usize => {
            Err(format!("this host's KVM has at most {most} processors for a machine, not {}", config.cpus))
        }
        _ => Ok(()),
    }
}

fn flaws(config: &Config, findings: &kvm::Findings) -> Result<Option<String>, String> {
    if config.host_cpu {
        // It is what KVM offers.
        return Ok(None);
    }
    let leaks = kvm::lacking(config.cpu).map_err(|error| error.to_string())?;
    let leaked = findings.seen.as_ref().map(|seen| kvm::leaked(config.cpu, seen)).unwrap_or_default();
    Ok(describe(config, &leaks, &leaked))
}

/// Whether a machine that has begun with another engine may come to KVM; why not.
pub(crate) fn may_enter_kvm(config: &Config) -> Result<(), String> {
    if config.leak {
        // What the user has accepted; the machine was made for it.
        return Ok(());
    }
    let findings = probe()?;
    enough_processors(config, &findings)?;
    flaws(config, &findings)?.map_or(Ok(()), Err)
}

/// Runs the probe in a process of its own.
pub(crate) fn probe() -> Result<kvm::Findings, String> {
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/proc/self/exe"));
    kvm::probe(&program, DEADLINE, std::env::var_os(FOR_EVER).is_some())
}

/// What `softmetal doctor` says of KVM and of each processor model, a line each, and whether all is well.
pub(crate) fn examine(config: &Config) -> (Vec<String>, bool) {
    let findings = match probe() {
        Ok(findings) => findings,
        Err(why) => return (vec![format!("KVM does not serve: {why}")], false),
    };
    let mut lines = vec![format!(
        "KVM works: {:.1} ns an instruction of system code, at most {} processors for a machine",
        findings.nanoseconds, findings.processors
    )];
    let mut well = true;
    if findings.is_software() {
        well = false;
        lines.push(
            "it is an imitation in software: user code of 64 bits runs at full speed, everything else slower than in softmetal \
             itself, and some of it not at all"
                .into(),
        );
    }
    if findings.seen.is_none() {
        well = false;
        lines.push("a guest could not be brought to run user code of 64 bits".into());
    }
    if let Err(why) = enough_processors(config, &findings) {
        well = false;
        lines.push(why);
    }
    for (_, model, _) in softmetal_cpu::Model::LIST {
        let config = Config { cpu: *model, ..config.clone() };
        match flaws(&config, &findings) {
            Ok(None) => lines.push(format!("--cpu {}: as it should be", model.name())),
            Ok(Some(what)) | Err(what) => lines.push(what),
        }
    }
    lines.push(match kvm::host_processor_name() {
        Some(name) => format!("--cpu host: {name}, as far as KVM offers it to guests"),
        None => "--cpu host: as far as KVM offers it to guests".into(),
    });
    (lines, well)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::KernelSource;

    fn config() -> Config {
        Config::new(KernelSource::BuiltIn(b""))
    }

    #[test]
    fn what_counts_instructions_needs_our_own_engines() {
        assert_eq!(needs_own_engine(&config()), None);
        let recorded = Config { record: Some("log".into()), accel: Accel::Kvm, ..config() };
        let message = decide(recorded).unwrap_err().to_string();
        assert!(message.contains("--accel kvm: --record needs"), "{message}");
        let counted = Config { clock: ClockSource::Instructions, ..config() };
        let (decided, line) = decide(counted).unwrap();
        assert!(line.is_some_and(|line| line.contains("--clock instructions needs")));
        assert_eq!((decided.accel, decided.automatic), (SOFTWARE, true));
    }

    #[test]
    fn the_hosts_processor_is_for_kvm_alone() {
        for accel in [Accel::Interp, Accel::Jit] {
            let config = Config { accel, host_cpu: true, leak: true, ..config() };
            let message = decide(config).unwrap_err().to_string();
            let named = format!("--accel {}", accel.name());
            assert!(message.contains(&named) && message.contains("--cpu max"), "{message}");
        }
        let recorded = Config { record: Some("log".into()), host_cpu: true, leak: true, ..config() };
        let message = decide(recorded).unwrap_err().to_string();
        assert!(message.contains("--record") && message.contains("--cpu max"), "{message}");
    }

    #[test]
    fn flaws_are_listed_with_the_way_out() {
        let model = softmetal_cpu::Model::V2;
        let pcid = model.features().find(|feature| feature.name == "Pcid").unwrap();
        let leaks = kvm::Leaks { lacking: vec![pcid], ..kvm::Leaks::default() };
        let config = Config { cpu: model, ..config() };
        let what = describe(&config, &leaks, &["7:EBX[5]".into()]).unwrap();
        for part in ["lacks PCID", "7:EBX[5]", "--cpu v2,leak=on"] {
            assert!(what.contains(part), "{what}");
        }
        assert_eq!(describe(&config, &kvm::Leaks::default(), &[]), None);
    }
}
