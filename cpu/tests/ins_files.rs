//! The lines of ins/*.ins, on the interpreter and, where it can run them, on the host. `BLESS=1` rewrites what stands behind
//! the arrows.

use softmetal_cpu_testing::ins::check_file;
use std::path::Path;

#[test]
fn every_line() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ins");
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .expect("tests/ins is a folder")
        .map(|entry| entry.expect("the folder can be read").path())
        .filter(|path| path.extension().is_some_and(|e| e == "ins"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "there are .ins files");
    let mut wrong = Vec::new();
    for file in files {
        let report = check_file(&file).unwrap_or_else(|why| panic!("{why}"));
        println!("{}: {} lines, {} of them on the host too", file.display(), report.lines, report.on_host);
        assert!(report.lines > 0, "{} holds instructions", file.display());
        wrong.extend(report.wrong);
    }
    assert!(wrong.is_empty(), "{} lines are wrong:\n{}", wrong.len(), wrong.join("\n"));
}
