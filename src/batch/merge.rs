//! `candor batch merge`: joins the outputs of all shards, in the order of the input.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::failure::Failure;
use super::input::Input;
use super::progress::{Summary, Tally};
use super::record::Record;
use super::state::State;
use crate::api::counted;

/// What to join.
pub struct Merge {
    /// The input of all shards.
    pub input: PathBuf,
    /// A new file.
    pub output: PathBuf,
    /// The outputs of all shards, in any order.
    pub shards: Vec<PathBuf>,
    /// Whether shards may be of different bits classes.
    pub allow_mixed: bool,
}

/// Where an answer is.
#[derive(Clone, Copy)]
struct Found {
    shard: u32,
    length: u32,
    offset: u64,
}

/// Joins the shards, if every line of the input has exactly one answer in them.
pub fn merge(merge: &Merge) -> Result<Summary, Failure> {
    let begun = Instant::now();
    check_output(&merge.output)?;
    let input = Input::read(&merge.input, |_| Ok(()))?;
    check_states(merge, &input)?;
    let mut found = vec![None; input.id.lines];
    let mut tally = Tally {
        lines: input.id.lines,
        ..Tally::default()
    };
    let mut files = Vec::new();
    for (number, path) in (0..).zip(&merge.shards) {
        let file = open(path)?;
        tally.errors += find(&input, path, &file, number, &mut found)?;
        files.push(file);
    }
    let missing = found.iter().filter(|it| it.is_none()).count();
    if let Some(first) = found.iter().position(Option::is_none) {
        return Err(Failure::Refused(format!(
            "{} {} no answer in these shards; the first is line {} of the input. Run their commands again first.",
            counted(missing, "line"),
            if missing == 1 { "has" } else { "have" },
            input.number(u32::try_from(first).unwrap_or(u32::MAX))
        )));
    }
    write(&merge.output, &files, &found).map_err(|error| {
        Failure::Stopped(format!("cannot write {}: {error}", merge.output.display()))
    })?;
    tally.earlier = tally.lines;
    let took = begun.elapsed();
    Ok(Summary { tally, took })
}

fn check_output(output: &Path) -> Result<(), Failure> {
    match output.try_exists() {
        Ok(false) => Ok(()),
        Ok(true) => Err(Failure::Refused(format!(
            "{} exists. Name a new file, or remove it.",
            output.display()
        ))),
        Err(error) => Err(Failure::Refused(format!(
            "cannot write {}: {error}",
            output.display()
        ))),
    }
}

/// Checks that the shards are all shards of this input, with the same origins.
fn check_states(merge: &Merge, input: &Input) -> Result<(), Failure> {
    let mut first: Option<(State, &Path)> = None;
    let mut indices = Vec::new();
    for path in &merge.shards {
        let shown = path.display();
        let mut state = State::read(path)?;
        if state.input != input.id {
            return Err(Failure::Refused(format!(
                "{shown} has the answers to another input than {}, or that file has changed since.",
                merge.input.display()
            )));
        }
        if state.origins.are_mixed && !merge.allow_mixed {
            return Err(Failure::Refused(format!(
                "{shown} has answers of several bits classes. To join it all the same, pass --allow-mixed."
            )));
        }
        state.origins.are_mixed = merge.allow_mixed;
        indices.push((state.shard.index, path));
        let Some((other, other_path)) = &mut first else {
            first = Some((state, path));
            continue;
        };
        let (one, two) = (state.shard.of, other.shard.of);
        if one != two {
            return Err(Failure::Refused(format!(
                "{shown} is one of {}, but {} is one of {}.",
                counted(one, "shard"),
                other_path.display(),
                counted(two, "shard")
            )));
        }
        if let Err(why) = other.origins.join(&state.origins) {
            return Err(Failure::Refused(format!("{shown}: {why}.")));
        }
    }
    let of = first.map_or(0, |(state, _)| state.shard.of);
    indices.sort_unstable();
    for pair in indices.windows(2) {
        if let [(one, path), (other, other_path)] = pair
            && one == other
        {
            return Err(Failure::Refused(format!(
                "{} and {} are both shard {one}/{of}.",
                path.display(),
                other_path.display()
            )));
        }
    }
    let is_here = |index: &usize| indices.iter().any(|(here, _)| here == index);
    let missing: Vec<String> = (0..of)
        .filter(|index| !is_here(index))
        .map(|index| format!("{index}/{of}"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let missing = missing.join(", ");
    Err(Failure::Refused(format!(
        "these shards are missing: {missing}"
    )))
}

fn open(path: &Path) -> Result<File, Failure> {
    let shown = path.display();
    let file = File::open(path)
        .map_err(|error| Failure::Refused(format!("cannot read {shown}: {error}")))?;
    match file.try_lock_shared() {
        Err(std::fs::TryLockError::WouldBlock) => Err(Failure::Refused(format!(
            "a process is still writing {shown}. Wait until it ends."
        ))),
        // Not every file system has locks.
        _ => Ok(file),
    }
}

/// Notes where the answers of a shard are. Returns how many of them are errors.
fn find(
    input: &Input,
    path: &Path,
    file: &File,
    shard: u32,
    found: &mut [Option<Found>],
) -> Result<usize, Failure> {
    let wrong = |number: u64, why: &dyn std::fmt::Display| {
        let path = path.display();
        Failure::Refused(format!(
            "line {number} of {path}: {why}. Run the command of this shard again first."
        ))
    };
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let (mut text, mut offset, mut errors) = (Vec::new(), 0, 0);
    for number in 1.. {
        text.clear();
        let length = reader.read_until(b'\n', &mut text);
        let length = length.map_err(|error| wrong(number, &error))?;
        if length == 0 {
            break;
        }
        let record = Record::read(&text).map_err(|error| wrong(number, &error))?;
        if !text.ends_with(b"\n") {
            return Err(wrong(number, &"it is not whole"));
        }
        let id = &record.custom_id;
        let Some(line) = input.find(id) else {
            let why = format!("`custom_id` {id:?} is not in the input");
            return Err(wrong(number, &why));
        };
        let place = Found {
            shard,
            length: u32::try_from(length).map_err(|_| wrong(number, &"longer than 4 GiB"))?,
            offset,
        };
        if found[line as usize].replace(place).is_some() {
            let why = format!("`custom_id` {id:?} was answered before");
            return Err(wrong(number, &why));
        }
        errors += usize::from(!record.is_answered());
        offset += length as u64;
    }
    Ok(errors)
}

/// Writes the answers to a file that gets its name when it is complete.
fn write(output: &Path, files: &[File], found: &[Option<Found>]) -> io::Result<()> {
    let mut part = output.as_os_str().to_owned();
    part.push(".part");
    let written = || -> io::Result<()> {
        let mut writer = BufWriter::with_capacity(1 << 20, File::create(&part)?);
        let mut text = Vec::new();
        for place in found.iter().flatten() {
            text.resize(place.length as usize, 0);
            files[place.shard as usize].read_exact_at(&mut text, place.offset)?;
            writer.write_all(&text)?;
        }
        writer.into_inner()?.sync_all()?;
        std::fs::rename(&part, output)
    };
    written().inspect_err(|_| {
        let _ = std::fs::remove_file(&part);
    })
}
