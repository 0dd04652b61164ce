//! What the side-by-side benchmark makes of its measurements: medians and means, tables, the picture, going on with a run.

// The benchmark is no library; not all of it is used here.
#![allow(dead_code, unreachable_pub)]

#[path = "../benches/side_by_side/picture.rs"]
mod picture;
#[path = "../benches/side_by_side/report.rs"]
mod report;
#[path = "../benches/side_by_side/table.rs"]
mod table;

use report::{Basis, NATIVE, OTHER, QEMU, Report, Row, SOFTMETAL, Seen};

fn row(group: &str, name: &str, seconds: &[(&str, &[f64])]) -> Row {
    Row {
        group: group.to_owned(),
        name: name.to_owned(),
        work: 100,
        processors: 1,
        seconds: seconds.iter().map(|(side, times)| ((*side).to_owned(), times.to_vec())).collect(),
        used_seconds: Default::default(),
        failures: Default::default(),
    }
}

fn report(sides: &[&str], rows: Vec<Row>) -> Report {
    let sides = sides.iter().map(|side| ((*side).to_owned(), String::new())).collect();
    let mut report = Report::new(sides, 100, 3);
    report.rows = rows;
    report
}

fn two_groups() -> Report {
    report(
        &[NATIVE, QEMU, SOFTMETAL],
        vec![
            row(
                "integer",
                "sort",
                &[(NATIVE, &[1.0, 1.0, 1.0]), (QEMU, &[8.0, 9.0, 40.0]), (SOFTMETAL, &[3.0, 3.0, 2.0])],
            ),
            row(
                "integer",
                "sieve",
                &[(NATIVE, &[1.0, 1.0, 1.0]), (QEMU, &[2.0, 2.0, 2.0]), (SOFTMETAL, &[6.0, 6.0, 6.0])],
            ),
            row("boot", "cloud", &[(QEMU, &[4.0, 4.0, 4.0]), (SOFTMETAL, &[2.0, 2.0, 2.0])]),
        ],
    )
}

#[test]
fn medians_count_and_means_are_geometric() {
    let report = two_groups();
    assert_eq!(report.rows[0].ratio(), Some(3.0), "one slow round does not count");
    assert_eq!(report.rows[0].spread(), Some(32.0 / 9.0));
    let text = table::markdown(&report, None);
    assert!(text.contains("| integer | sort | 1.00 | 9.00 | 3.00 | 3.00 | 3.00 | 356 % |"), "{text}");
    assert!(text.contains("| boot | cloud | - | 4.00 | 2.00 | - | 2.00 | 0 % |"), "{text}");
    // 3 times and 1/3; native 3 and 6.
    assert!(text.contains("| **integer** | *geometric mean* | | | | **4.24** | **1.00** | |"), "{text}");
    assert!(text.contains("| **all** | *geometric mean* | | | | **4.24** | **1.26** | |"), "{text}");
}

#[test]
fn a_failure_is_told_and_counts_nowhere() {
    let mut report = two_groups();
    report.rows[1].failures.insert(SOFTMETAL.to_owned(), "wrong result: 7".to_owned());
    assert_eq!(report.rows[1].ratio(), None);
    let text = table::markdown(&report, None);
    assert!(text.contains("| integer | sieve | 1.00 | 2.00 | - | - | - |"), "{text}");
    assert!(text.contains("| **integer** | *geometric mean* | | | | **3.00** | **3.00** | |"), "{text}");
    assert!(text.contains("**Failed:** integer sieve under softmetal: wrong result: 7"), "{text}");
    assert_eq!(report.failures().count(), 1);
}

#[test]
fn a_second_build_and_an_earlier_run_have_columns() {
    let mut now = two_groups();
    now.sides.push((OTHER.to_owned(), "old".to_owned()));
    now.rows[0].seconds.insert(OTHER.to_owned(), vec![1.5]);
    let mut before = two_groups();
    before.rows[0].seconds.insert(SOFTMETAL.to_owned(), vec![6.0]);
    before.rows[1].work = 50;
    let text = table::markdown(&now, Some(&before));
    // other s, softmetal / other, QEMU / other, before s, before / now, QEMU before / now
    assert!(text.contains("| 1.50 | 2.00 | 6.00 | 6.00 | 2.00 | 1.00 |"), "{text}");
    assert!(
        text.contains("| integer | sieve | 1.00 | 2.00 | 6.00 | 6.00 | 0.33 | - | - | - | - | - | - |"),
        "{text}"
    );
}

#[test]
fn processor_time_takes_the_place_of_the_clocks() {
    let mut report = two_groups();
    for (side, seconds) in [(QEMU, 5.0), (SOFTMETAL, 1.0)] {
        report.rows[0].used_seconds.insert(side.to_owned(), vec![seconds]);
    }
    assert_eq!(report.by(Basis::Clock).rows[0].ratio(), Some(3.0));
    assert_eq!(report.by(Basis::Cpu).rows[0].ratio(), Some(5.0));
    assert!(table::markdown(&report.by(Basis::Cpu), None).starts_with("Seconds of the host's processors"));
    // Shorter than what the host counts in.
    report.rows[0].used_seconds.insert(SOFTMETAL.to_owned(), vec![0.0]);
    assert_eq!(report.by(Basis::Cpu).rows[0].ratio(), None);
}

#[test]
fn what_one_guest_has_and_the_other_has_not_is_listed() {
    let mut report = two_groups();
    for (side, flags) in [(SOFTMETAL, "fpu sha_ni avx2"), (QEMU, "fpu avx2 svm")] {
        let seen = Seen { flags: flags.to_owned(), clock_source: "tsc".to_owned() };
        report.seen.insert(side.to_owned(), seen);
    }
    let text = table::markdown(&report, None);
    assert!(text.contains("Both guests have: `avx2 fpu`."), "{text}");
    assert!(text.contains("Only softmetal's: `sha_ni`."), "{text}");
    assert!(text.contains("Only QEMU's: `svm`."), "{text}");
}

#[test]
fn a_run_goes_on_where_it_ended() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("numbers.json");
    let mut earlier = two_groups();
    earlier.rows[0].seconds.insert(QEMU.to_owned(), vec![8.0]);
    earlier.rows.push(row("integer", "failed", &[]));
    earlier.rows[3].failures.insert(QEMU.to_owned(), "no line".to_owned());
    std::fs::write(&path, serde_json::to_string(&earlier).unwrap()).unwrap();
    let read = Report::read(&path).unwrap();
    let mut now = report(&[NATIVE, QEMU, SOFTMETAL], Vec::new());
    now.resume(read.clone()).unwrap();
    let names: Vec<&str> = now.rows.iter().map(|row| row.name.as_str()).collect();
    assert_eq!(names, ["sort", "sieve", "cloud"], "the failed one runs again");
    assert_eq!((now.rows[0].rounds(QEMU), now.rows[0].rounds(SOFTMETAL)), (1, 3), "two rounds are missing");
    let mut other = report(&[NATIVE, QEMU, SOFTMETAL], Vec::new());
    other.builds.insert(SOFTMETAL.to_owned(), "1".to_owned());
    let error = other.resume(read).unwrap_err().to_string();
    assert!(error.contains("builds of softmetal"), "{error}");
    std::fs::write(&path, "{\"version\": 1}").unwrap();
    assert!(Report::read(&path).unwrap_err().to_string().contains("another version"));
}

/// Bars start at 1: those of rows that are slower end there.
#[test]
fn the_picture_has_a_bar_for_each_row_and_group() {
    let summary = picture::groups(&two_groups());
    assert_eq!(summary.matches("<circle").count(), 3, "a dot for each row");
    // Of the group whose mean is 1, and of the boots.
    assert_eq!(summary.matches("<rect class=\"faster\"").count(), 2);
    let svg = picture::rows(&two_groups());
    let bars = |class: &str| svg.matches(&format!("<rect class=\"{class}\"")).count();
    assert_eq!((bars("faster"), bars("slower")), (2, 1));
    assert_eq!(bars("faster mean") + bars("slower mean"), 2);
    assert_eq!(svg.matches("<svg").count(), svg.matches("</svg>").count());
    assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
    let left = |class: &str| {
        let rest = svg.split(&format!("<rect class=\"{class}\" x=\"")).nth(1).unwrap();
        rest.split('"').next().unwrap().parse::<f64>().unwrap()
    };
    assert!(left("slower") < left("faster"));
}
