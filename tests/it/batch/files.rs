//! Input and output: what is refused, what is repaired, shards.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::fake::{Fake, Told};
use super::{Ended, Folder, ended, line, line_of, lines, prompts, wait};
use crate::process::candor;

const CLASS: &str = "avx2-1";

fn some(lines: usize) -> Vec<Value> {
    let of = |number: usize| line(&format!("id-{number}"), &format!("prompt {number}"));
    (0..lines).map(of).collect()
}

#[test]
fn wrong_lines_are_named_before_anything_is_sent() {
    let fake = Fake::fine(CLASS);
    let folder = Folder::new(&[]);
    let fine = line("a", "One").to_string();
    let stream = line_of(
        "b",
        "/v1/completions",
        json!({"prompt": "One", "stream": true}),
    );
    let unknown = line_of("c", "/v1/rerank", json!({"prompt": "One"}));
    let text = [
        fine.as_str(),
        "{\"custom_id\": ",
        "",
        &fine.replace("\"custom_id\":\"a\",", ""),
        &stream.to_string(),
        &unknown.to_string(),
        &fine.replace("POST", "PUT"),
        &fine.replace("\"method\"", "\"priority\":1,\"method\""),
    ]
    .join("\n");
    fs::write(&folder.input, text).expect("written");
    folder.run(&["--url", &fake.url]).check(
        2,
        &[
            "has 6 lines that cannot be sent, so nothing was sent:",
            "line 2: not valid JSON",
            "line 4: `custom_id` is missing",
            "line 5: `body.stream` must be false",
            "line 6: `url` must be one of /v1/completions, /v1/chat/completions, /v1/score",
            "line 7: `method` must be \"POST\", not the string \"PUT\"",
            "line 8: unknown field `priority`",
        ],
    );
    fs::write(&folder.input, format!("{fine}\n{fine}\n")).expect("written");
    let doubled = folder.run(&["--url", &fake.url]);
    doubled.check(2, &["line 2: `custom_id` \"a\" is that of line 1, too"]);
    assert_eq!(fake.sent().len(), 0);
    assert!(!folder.output.exists());
}

#[test]
fn a_torn_line_is_sent_again_and_other_damage_is_named() {
    let fake = Fake::fine(CLASS);
    let folder = Folder::new(&some(6));
    let run = || folder.run(&["--url", &fake.url]);
    run().check(0, &[]);
    let whole = fs::read_to_string(&folder.output).expect("an output");
    let expect = folder.answers();
    // Within the last line, at its end, or with what a crash of the machine may leave.
    for end in [whole.len() - 1, whole.len() - 2, whole.len() - 100] {
        fs::write(&folder.output, &whole[..end]).expect("written");
        run().check(0, &["is not whole", "this run: 1 lines"]);
        assert_eq!(folder.answers(), expect);
    }
    fs::write(&folder.output, format!("{whole}\0\0\0")).expect("written");
    run().check(0, &["is not whole", "this run: 0 lines"]);
    assert_eq!(folder.answers(), expect);
    let first_line = whole.find('\n').expect("lines") + 1;
    let refused = |text: String, parts: &[&str]| {
        fs::write(&folder.output, &text).expect("written");
        run().check(2, parts);
        assert_eq!(fs::read_to_string(&folder.output).expect("an output"), text);
    };
    refused(
        format!("noise\n{whole}"),
        &["line 1 of", "is not an answer", "Remove the line"],
    );
    refused(
        format!("{whole}{}", &whole[..first_line]),
        &["line 7 of", "as an earlier line"],
    );
    refused(
        whole.replace("\"id-3\"", "\"other\""),
        &["\"other\", which is not among the requests"],
    );
    // What is removed is sent again.
    fs::write(&folder.output, &whole[first_line..]).expect("written");
    run().check(0, &["this run: 1 lines"]);
    assert_eq!(folder.answers(), expect);
}

#[test]
fn an_output_belongs_to_its_input_and_flags() {
    let fake = Fake::fine(CLASS);
    let folder = Folder::new(&some(6));
    let url = ["--url", fake.url.as_str()];
    let run = |flags: &[&str]| folder.run(&[&url, flags].concat());
    run(&[]).check(0, &[]);
    run(&["--shard", "0/2"]).check(2, &["is for shard 0/1, not 0/2"]);
    run(&["--receipts"]).check(2, &["was begun without --receipts"]);
    let state = folder.path("out.jsonl.state");
    let text = fs::read_to_string(&state).expect("a state");
    let json: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(json["origins"]["models"][""]["bits_class"], CLASS);
    fs::remove_file(&state).expect("removed");
    run(&[]).check(2, &["out.jsonl.state, which says what", "cannot be read"]);
    fs::write(&state, &text).expect("written");
    let mut input = fs::File::options()
        .append(true)
        .open(&folder.input)
        .expect("an input");
    writeln!(input, "{}", line("more", "x")).expect("written");
    run(&[]).check(2, &["the answers to another input", "of 6 lines"]);
    // Without an output, everything starts over.
    fs::remove_file(&folder.output).expect("removed");
    run(&[]).check(0, &["this run: 7 lines"]);
}

#[test]
fn only_one_process_writes_an_output() {
    let fake = Fake::start(CLASS, |_, _| {
        std::thread::sleep(std::time::Duration::from_secs(3600));
        Told::Nothing
    });
    let folder = Folder::new(&some(6));
    let flags = ["--url", fake.url.as_str()];
    let mut first = folder.start(&flags);
    while fake.sent().is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    folder
        .run(&flags)
        .check(2, &["another process is writing", "out.jsonl"]);
    first.kill().expect("killed");
    wait(first);
}

/// A file system of one's own, if this user may mount one.
struct Mount(PathBuf);

impl Mount {
    fn new(folder: &Path, options: &str) -> Option<Self> {
        let path = folder.to_owned();
        fs::create_dir_all(&path).expect("a folder");
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(&path);
        match mount.output() {
            Ok(output) if output.status.success() => Some(Self(path)),
            other => {
                println!("skipped: this user cannot mount a file system: {other:?}");
                None
            }
        }
    }

    fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        let mut mount = Command::new("mount");
        let done = mount.args(["-o", &options]).arg(&self.0).status();
        assert!(done.expect("mount runs").success());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_ends_a_run_and_loses_nothing() {
    let fake = Fake::fine(CLASS);
    let mut folder = Folder::new(&some(200));
    let Some(mount) = Mount::new(&folder.path("small"), "size=32k") else {
        return;
    };
    folder.output = mount.0.join("out.jsonl");
    let run = || folder.run(&["--url", &fake.url]);
    run().check(
        1,
        &[
            "No space left on device",
            "has the answers to",
            "Run the same command again",
        ],
    );
    let done = lines(&folder.output).len();
    assert!((1..200).contains(&done), "{done}");
    // It stays full: nothing changes.
    run().check(1, &["No space left on device"]);
    assert!(lines(&folder.output).len() >= done);
    mount.remount("size=1m");
    run().check(0, &["with an error: 0"]);
    assert_eq!(lines(&folder.output).len(), 200);
    let mut ids = folder.answers();
    ids.dedup();
    assert_eq!(ids.len(), 200);
}

#[test]
fn an_output_that_cannot_be_written_is_refused_before_anything_is_sent() {
    let fake = Fake::fine(CLASS);
    let mut folder = Folder::new(&some(6));
    let url = ["--url", fake.url.as_str()];
    folder.output = folder.path("no/such/folder/out.jsonl");
    folder
        .run(&url)
        .check(2, &["cannot write", "No such file or directory"]);
    folder.output = folder.path("");
    folder
        .run(&url)
        .check(2, &["cannot write", "Is a directory"]);
    folder.output = folder.path("device.jsonl");
    std::os::unix::fs::symlink("/dev/full", &folder.output).expect("a link");
    let ended = folder.run(&url);
    ended.check(2, &["cannot write", "it is not a regular file"]);
    if let Some(mount) = Mount::new(&folder.path("read-only"), "size=32k") {
        mount.remount("ro");
        folder.output = mount.0.join("out.jsonl");
        folder
            .run(&url)
            .check(2, &["cannot write", "Read-only file system"]);
    }
    assert_eq!(fake.sent().len(), 0);
}

#[test]
fn an_input_that_is_no_file_is_refused() {
    let mut folder = Folder::new(&some(1));
    folder.input = "/dev/null".into();
    folder
        .run(&["--url", "http://127.0.0.1:1"])
        .check(2, &["cannot be a pipe"]);
    folder.input = folder.path("no-such-file");
    folder
        .run(&["--url", "http://127.0.0.1:1"])
        .check(2, &["cannot read", "no-such-file"]);
    folder.input = folder.path("empty");
    fs::write(&folder.input, "\n").expect("written");
    folder
        .run(&["--url", "http://127.0.0.1:1"])
        .check(2, &["has no requests"]);
}

/// Joins shards with `candor batch merge`.
fn merge(folder: &Folder, output: &Path, shards: &[PathBuf], flags: &[&str]) -> Ended {
    let mut command = candor();
    command.args(["batch", "merge"]).args(flags);
    command.arg(&folder.input).arg(output).args(shards);
    ended(&mut command)
}

#[test]
fn shards_are_joined_in_the_order_of_the_input() {
    let fake = Fake::start(CLASS, |_, sent| match sent.prompt() {
        "wrong" => Told::error(400, "wrong"),
        _ => Told::fine(CLASS),
    });
    let mut all = prompts(7, 9);
    all.insert(20, line("wrong", "wrong"));
    let mut folder = Folder::new(&all);
    let url = ["--url", fake.url.as_str()];
    let shards: Vec<PathBuf> = (0..4)
        .map(|it| folder.path(&format!("out-{it}.jsonl")))
        .collect();
    let joined = folder.path("joined.jsonl");
    let mut stems = vec![0; 7];
    let mut count = 0;
    for (index, output) in shards.iter().enumerate() {
        output.clone_into(&mut folder.output);
        let shard = format!("{index}/4");
        let ended = folder.run(&[&url[..], &["--shard", &shard]].concat());
        let has_wrong = ended.printed.contains("with an error: 1");
        ended.check(if has_wrong { 3 } else { 0 }, &[]);
        let here = lines(output);
        assert!(here.len() >= 9, "{}", here.len());
        count += here.len();
        for (stem, shards) in stems.iter_mut().enumerate() {
            let begins = format!("{stem}-");
            let is_here = |line: &&Value| {
                line["custom_id"]
                    .as_str()
                    .is_some_and(|it| it.starts_with(&begins))
            };
            *shards += usize::from(here.iter().any(|line| is_here(&line)));
        }
    }
    assert_eq!(count, all.len());
    // Cuts are between stems.
    assert_eq!(stems, [1; 7]);
    let ended = merge(&folder, &joined, &shards, &[]);
    ended.check(3, &["lines: 64, with an error: 1"]);
    let ids = |lines: &[Value]| -> Vec<Value> {
        lines.iter().map(|line| line["custom_id"].clone()).collect()
    };
    assert_eq!(ids(&lines(&joined)), ids(&all));
    let again = merge(&folder, &joined, &shards, &[]);
    again.check(2, &["joined.jsonl exists"]);
    let other = folder.path("other.jsonl");
    merge(&folder, &other, &shards[1..], &[]).check(2, &["shards are missing: 0/4"]);
    let doubled = [&shards[..], &shards[..1]].concat();
    merge(&folder, &other, &doubled, &[]).check(2, &["are both shard 0/4"]);
    // An answer is missing, or is no answer.
    let text = fs::read_to_string(&shards[2]).expect("an output");
    let first_line = text.find('\n').expect("lines") + 1;
    fs::write(&shards[2], &text[first_line..]).expect("written");
    merge(&folder, &other, &shards, &[]).check(2, &["1 line has no answer in these shards"]);
    fs::write(&shards[2], &text[..text.len() - 1]).expect("written");
    merge(&folder, &other, &shards, &[]).check(2, &["it is not whole"]);
    fs::write(&shards[2], &text).expect("written");
    // A shard of another machine.
    let state = folder.path("out-3.jsonl.state");
    let text = fs::read_to_string(&state).expect("a state");
    fs::write(&state, text.replace(CLASS, "amx-1")).expect("written");
    merge(&folder, &other, &shards, &[]).check(2, &["has the bits class amx-1"]);
    merge(&folder, &other, &shards, &["--allow-mixed"]).check(3, &[]);
    fs::write(&state, text).expect("written");
    fs::remove_file(&other).expect("removed");
    let mut input = fs::File::options()
        .append(true)
        .open(&folder.input)
        .expect("an input");
    writeln!(input).expect("written");
    merge(&folder, &other, &shards, &[]).check(2, &["the answers to another input"]);
    assert!(!other.exists());
}

#[test]
fn a_settings_file_in_the_environment_does_not_keep_shards_from_being_joined() {
    let fake = Fake::fine(CLASS);
    let folder = Folder::new(&some(3));
    folder.run(&["--url", &fake.url]).check(0, &[]);
    let mut command = candor();
    command.args(["batch", "merge"]).args([
        &folder.input,
        &folder.path("joined.jsonl"),
        &folder.output,
    ]);
    command.env("CANDOR_CONFIG", "/no/such/file.toml");
    ended(&mut command).check(0, &["lines: 3, with an error: 0"]);
}
