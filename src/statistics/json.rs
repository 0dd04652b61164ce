//! The report as JSON: what `--stats` writes. Names of fields are those of [`softmetal_cpu::Statistics`]; vectors are strings,
//! times seconds.

use serde_json::{Map, Value, json};
use softmetal_cpu::{AddressSpace, Doing, Flush, Trap};

use super::{CpuReport, Report};

impl Report {
    /// All of it but the profile.
    pub fn to_json(&self) -> Value {
        json!({
            "seconds": self.duration.as_secs_f64(),
            "power_ons": self.power_ons,
            "cpus": self.cpus.iter().map(cpu).collect::<Vec<_>>(),
            "devices": self.devices.iter().map(|device| json!({
                "name": device.label, "reads": device.reads, "writes": device.writes,
            })).collect::<Vec<_>>(),
            "dma": { "writes": self.dma_writes, "bytes": self.dma_bytes },
            "balloon": self.balloon,
        })
    }
}

fn cpu(cpu: &CpuReport) -> Value {
    let statistics = &cpu.statistics;
    let mut fields: Map<String, Value> =
        statistics.numbers().into_iter().map(|(name, count)| (name.into(), count.into())).collect();
    let times = Doing::ALL.map(|doing| (key(&format!("{doing:?}")), cpu.times[doing as usize].as_secs_f64()));
    fields.insert("seconds".into(), times.into_iter().collect());
    let flushes = Flush::ALL.map(|flush| (key(&format!("{flush:?}")), statistics.flushes[flush as usize]));
    fields.insert("flushes".into(), flushes.into_iter().collect());
    fields.insert("exceptions".into(), vectors(&statistics.exceptions));
    fields.insert("interrupts".into(), vectors(&statistics.interrupts));
    fields.insert("software_interrupts".into(), vectors(&statistics.software_interrupts));
    if let Some(kvm) = &cpu.kvm {
        let counts = kvm.iter().map(|&(name, count)| (name.replace(' ', "_"), count.into()));
        fields.insert("kvm".into(), Value::Object(counts.collect()));
    }
    if let Some(translator) = &cpu.translator {
        let mut counters = json!(translator);
        counters["not_inline"] = json!(cpu.not_inline);
        fields.insert("translator".into(), counters);
    }
    fields.insert("address_spaces".into(), cpu.spaces.iter().map(space).collect());
    fields.into()
}

/// Those that happened.
fn vectors(counts: &[u64]) -> Value {
    let happened = counts.iter().enumerate().filter(|(_, count)| **count > 0);
    happened.map(|(vector, count)| (vector.to_string(), *count)).collect()
}

fn space(space: &AddressSpace) -> Value {
    let traps = Trap::ALL.map(|trap| (key(&format!("{trap:?}")), space.traps[trap as usize]));
    json!({
        "root": space.root,
        "instructions": space.instructions,
        "entries": space.entries,
        "traps": traps.into_iter().collect::<Value>(),
    })
}

/// `LargePage` as `large_page`.
fn key(name: &str) -> String {
    let mut key = String::new();
    for (at, letter) in name.char_indices() {
        if letter.is_uppercase() && at > 0 {
            key.push('_');
        }
        key.extend(letter.to_lowercase());
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use softmetal_cpu::Statistics;
    use softmetal_devices::virtio::balloon::BalloonReport;
    use std::time::Duration;

    #[test]
    fn a_report_is_read_back() {
        let mut statistics = Statistics { instructions: 7, ..Statistics::default() };
        statistics.interrupts[0xec] = 3;
        statistics.flushes[Flush::LargePage as usize] = 2;
        let mut times = super::super::Times::default();
        times[Doing::Idle as usize] = Duration::from_millis(1500);
        let spaces = vec![AddressSpace { root: Some(0x1000), entries: 4, ..AddressSpace::default() }];
        let report = Report {
            cpus: vec![CpuReport { statistics, times, spaces, ..CpuReport::default() }],
            dma_bytes: 64,
            balloon: Some(BalloonReport { reported: 4096, ..BalloonReport::default() }),
            ..Report::default()
        };
        let read: Value = serde_json::from_str(&report.to_json().to_string()).unwrap();
        let cpu = &read["cpus"][0];
        assert_eq!((cpu["instructions"].as_u64(), cpu["decoded"].as_u64()), (Some(7), Some(0)));
        assert_eq!(
            (cpu["seconds"]["idle"].as_f64(), cpu["flushes"]["large_page"].as_u64()),
            (Some(1.5), Some(2))
        );
        assert_eq!(cpu["interrupts"], json!({ "236": 3 }));
        assert_eq!(cpu["address_spaces"][0]["traps"]["system_call"], json!(0));
        assert_eq!(read["dma"]["bytes"], json!(64));
        assert_eq!(
            (&read["balloon"]["reported"], &read["balloon"]["statistics"]),
            (&json!(4096), &Value::Null)
        );
    }
}
