//! Who sends which line next. Each server has a range of the order and sends it from its beginning; one that has finished
//! takes over half of the longest range that is left. Lines that have to be sent again go first.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::order::Order;

/// While so many lines wait to be sent again, no new ones are begun. When most of what is sent breaks, the rest of the batch is
/// not dragged along.
const MOST_WAITING: usize = 1024;

/// Suspects wait for each other, perhaps for hours, in which others are sent; but a batch of nothing else is of no use.
const MOST_SUSPECTS: usize = 16 * 1024;

/// A line to send.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Task {
    /// Its index in the input.
    pub line: u32,
    /// The hash of its group.
    pub group: u32,
    /// How often it has been refused because a server was busy, in succession.
    pub busy: u32,
    /// How often it was answered with an internal error.
    pub failed: u32,
    /// How often the server, or its part that ran it, ended meanwhile.
    pub broken: u32,
    /// Whether it may be what ends servers. A server has only one such line at a time: others do not become errors because of
    /// it.
    pub is_suspect: bool,
}

/// Who may not have a line again before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Barred {
    /// This server, in whatever place of the list.
    Server(usize),
    Everyone,
}

/// What a server is to do.
#[derive(Debug, PartialEq)]
pub enum Next {
    Send(Task),
    /// There is nothing to send before that time, if there is one, or until another server gives something back.
    Wait(Option<Instant>),
    /// Every line is finished.
    Done,
}

/// The lines that are not finished.
pub struct Work {
    order: Order,
    /// For each server, what nobody has sent yet.
    ranges: Vec<Range<usize>>,
    /// For each server, the first in the list that is the same.
    same: Vec<usize>,
    /// Lines to send again, but for suspects.
    again: Vec<Task>,
    /// Suspects to send again.
    suspects: Vec<Task>,
    /// When a server, the first that is the same, may have a line again that it did not answer.
    waits: HashMap<(u32, usize), Instant>,
    /// The lines that are being sent, and since when.
    in_flight: HashMap<u32, Instant>,
    /// For each server, the first that is the same, the one among them that is a suspect.
    suspect_of: Vec<Option<u32>>,
}

impl Work {
    /// For these servers. An address that is in the list several times is one server with several ranges.
    pub fn new<T: PartialEq>(order: Order, servers: &[T]) -> Self {
        let first = |server| servers.iter().position(|other| other == server);
        Self {
            ranges: (0..servers.len())
                .map(|it| order.part(it, servers.len()))
                .collect(),
            same: servers.iter().filter_map(first).collect(),
            order,
            again: Vec::new(),
            suspects: Vec::new(),
            waits: HashMap::new(),
            in_flight: HashMap::new(),
            suspect_of: vec![None; servers.len()],
        }
    }

    /// The next line for a server.
    pub fn next(&mut self, server: usize, now: Instant) -> Next {
        /// Others may have sent some of the lines that wait, and nobody says so.
        const LOOK_AGAIN: Duration = Duration::from_secs(1);
        let is_full = self.again.len() >= MOST_WAITING || self.suspects.len() >= MOST_SUSPECTS;
        let task = match self.take_again(server, now) {
            None if !is_full => self.take_new(server),
            task => task,
        };
        match task {
            Some(task) => {
                self.in_flight.insert(task.line, now);
                if task.is_suspect {
                    self.suspect_of[self.same[server]] = Some(task.line);
                }
                Next::Send(task)
            }
            None if self.is_done() => Next::Done,
            None => {
                let waits = self.again.iter().chain(&self.suspects);
                let waits = waits.filter_map(|task| self.wait(task, server));
                // What may be sent now waits for this server's suspect.
                let waits = waits.filter(|until| *until > now);
                Next::Wait(waits.chain(is_full.then(|| now + LOOK_AGAIN)).min())
            }
        }
    }

    /// The line has its answer. Returns whether there may be something to do now that waited for this.
    pub fn finish(&mut self, task: Task) -> bool {
        self.landed(task.line) || self.is_done()
    }

    /// The line has to be sent again, not before that time.
    pub fn put_back(&mut self, task: Task, barred: Barred, not_before: Instant) {
        self.landed(task.line);
        let now = Instant::now();
        self.waits.retain(|_, until| *until > now);
        let waits = |server: &&usize| match barred {
            Barred::Server(barred) => **server == self.same[barred],
            Barred::Everyone => true,
        };
        for &server in self.same.iter().filter(waits) {
            let until = self.waits.entry((task.line, server)).or_insert(not_before);
            *until = not_before.max(*until);
        }
        match task.is_suspect {
            true => self.suspects.push(task),
            false => self.again.push(task),
        }
    }

    pub fn is_done(&self) -> bool {
        self.in_flight.is_empty() && self.left() == 0
    }

    /// How many lines are being sent.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Since when the line has been in flight that has been for longest.
    pub fn oldest_in_flight(&self) -> Option<Instant> {
        self.in_flight.values().min().copied()
    }

    fn left(&self) -> usize {
        let new = self.ranges.iter().map(Range::len).sum::<usize>();
        new + self.again.len() + self.suspects.len()
    }

    /// A line is no longer in flight. Returns whether it was a suspect.
    fn landed(&mut self, line: u32) -> bool {
        self.in_flight.remove(&line);
        let mut suspects = self.suspect_of.iter_mut();
        suspects.any(|suspect| suspect.take_if(|suspect| *suspect == line).is_some())
    }

    /// Until when a server may not have a line.
    fn wait(&self, task: &Task, server: usize) -> Option<Instant> {
        self.waits.get(&(task.line, self.same[server])).copied()
    }

    fn take_again(&mut self, server: usize, now: Instant) -> Option<Task> {
        let may_have = |task: &Task| self.wait(task, server).is_none_or(|until| until <= now);
        if let Some(found) = self.again.iter().position(may_have) {
            return Some(self.again.remove(found));
        }
        if self.suspect_of[self.same[server]].is_some() {
            return None;
        }
        // The one with the most attempts first: it is decided soonest, and decided lines stay so, whatever ends the batch.
        let suspects = self.suspects.iter().enumerate();
        let (found, _) = suspects
            .filter(|(_, task)| may_have(task))
            .min_by_key(|(_, task)| Reverse(task.broken))?;
        Some(self.suspects.remove(found))
    }

    fn take_new(&mut self, server: usize) -> Option<Task> {
        if self.ranges[server].is_empty() {
            self.steal(server);
        }
        let place = self.order.at(self.ranges[server].next()?);
        Some(Task {
            line: place.line,
            group: place.group,
            busy: 0,
            failed: 0,
            broken: 0,
            is_suspect: false,
        })
    }

    /// Takes the second half of the longest range, cut where little is shared.
    fn steal(&mut self, server: usize) {
        let Some(longest) = self.ranges.iter_mut().max_by_key(|range| range.len()) else {
            return;
        };
        let at = match longest.len() {
            0 | 1 => longest.start,
            length => {
                let middle = longest.start + length / 2;
                self.order.cut(longest.clone(), middle, length / 4)
            }
        };
        let taken = at..longest.end;
        longest.end = at;
        self.ranges[server] = taken;
    }
}

#[cfg(test)]
mod tests {
    use super::super::beginning::Beginning;
    use super::*;

    /// Lines in groups of ten.
    fn work(lines: u32, servers: usize) -> Work {
        let beginnings: Vec<Beginning> = (0..lines)
            .map(|line| {
                let mut beginning = [line + 1000; 16];
                beginning[0] = line / 10;
                beginning
            })
            .collect();
        let servers: Vec<usize> = (0..servers).collect();
        Work::new(Order::new(&beginnings), &servers)
    }

    fn send(work: &mut Work, server: usize, now: Instant) -> Task {
        match work.next(server, now) {
            Next::Send(task) => task,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn servers_have_whole_groups_until_none_is_left() {
        let mut work = work(60, 2);
        let now = Instant::now();
        let mut groups = [[0; 6], [0; 6]];
        let mut finished = 0;
        // The second is five times as fast.
        for turn in 0.. {
            let server = usize::from(turn % 6 != 0);
            match work.next(server, now) {
                Next::Send(task) => {
                    groups[server][task.line as usize / 10] += 1;
                    work.finish(task);
                    finished += 1;
                }
                Next::Done => break,
                Next::Wait(_) => panic!("nothing is in flight"),
            }
        }
        assert_eq!(finished, 60);
        let split = (0..6).filter(|&it| groups[0][it] > 0 && groups[1][it] > 0);
        assert!(split.count() <= 1, "{groups:?}");
        let of_second: i32 = groups[1].iter().sum();
        assert!(of_second >= 45, "{groups:?}");
    }

    #[test]
    fn a_line_goes_elsewhere_at_once_and_back_not_before_its_time() {
        let mut work = work(2, 2);
        let now = Instant::now();
        let later = now + Duration::from_secs(5);
        let task = send(&mut work, 0, now);
        let other = send(&mut work, 1, now);
        work.put_back(task, Barred::Server(0), later);
        assert_eq!(work.next(0, now), Next::Wait(Some(later)));
        assert_eq!(work.in_flight(), 1);
        assert_eq!(send(&mut work, 1, now), task);
        work.put_back(task, Barred::Server(1), later);
        assert_eq!(work.next(1, now), Next::Wait(Some(later)));
        // The first server still waits, too.
        assert_eq!(work.next(0, now), Next::Wait(Some(later)));
        assert_eq!(send(&mut work, 1, later), task);
        work.finish(other);
        assert_eq!(work.next(0, later), Next::Wait(None));
        assert_eq!(work.oldest_in_flight(), Some(later));
        work.finish(task);
        assert_eq!(work.next(0, later), Next::Done);
        assert_eq!(work.next(1, later), Next::Done);
    }

    #[test]
    fn a_server_that_never_sends_leaves_everything_to_the_other() {
        let mut work = work(33, 3);
        let now = Instant::now();
        let mut lines = Vec::new();
        loop {
            match work.next(1, now) {
                Next::Send(task) => {
                    lines.push(task.line);
                    work.finish(task);
                }
                Next::Done => break,
                Next::Wait(_) => panic!("nothing is in flight"),
            }
        }
        lines.sort_unstable();
        assert_eq!(lines, (0..33).collect::<Vec<u32>>());
    }
    #[test]
    fn the_same_server_twice_is_one_server() {
        let mut work = Work::new(work(2, 1).order, &["a", "b", "a"]);
        let now = Instant::now();
        let later = now + Duration::from_secs(5);
        let task = send(&mut work, 2, now);
        let other = send(&mut work, 0, now);
        work.put_back(task, Barred::Server(2), later);
        assert_eq!(work.next(0, now), Next::Wait(Some(later)));
        assert_eq!(work.next(2, now), Next::Wait(Some(later)));
        assert_eq!(send(&mut work, 1, now), task);
        // Nobody may have it, and a time that was given is not shortened.
        work.put_back(task, Barred::Everyone, now + Duration::from_secs(1));
        assert_eq!(
            work.next(0, now + Duration::from_secs(2)),
            Next::Wait(Some(later))
        );
        assert_eq!(
            work.next(1, now),
            Next::Wait(Some(now + Duration::from_secs(1)))
        );
        assert_eq!(send(&mut work, 2, later), task);
        assert!(!work.finish(task));
        assert!(work.finish(other));
    }

    #[test]
    fn no_new_lines_are_begun_while_many_wait() {
        let mut work = work(1100, 1);
        let now = Instant::now();
        let later = now + Duration::from_secs(60);
        for _ in 0..MOST_WAITING {
            let task = send(&mut work, 0, now);
            work.put_back(task, Barred::Everyone, later);
        }
        // It looks again: another server may send one of them.
        let soon = now + Duration::from_secs(1);
        assert_eq!(work.next(0, now), Next::Wait(Some(soon)));
        let task = send(&mut work, 0, later);
        work.finish(task);
        // There is room for one.
        let fresh = send(&mut work, 0, now);
        assert_eq!(fresh.line as usize, MOST_WAITING);
    }

    fn suspect(task: Task) -> Task {
        Task {
            is_suspect: true,
            ..task
        }
    }

    #[test]
    fn a_server_has_one_suspect_at_a_time() {
        let mut work = work(5, 2);
        let now = Instant::now();
        let [one, other, third] = [(); 3].map(|()| suspect(send(&mut work, 0, now)));
        for task in [one, other, third] {
            work.put_back(task, Barred::Everyone, now);
        }
        assert_eq!(send(&mut work, 0, now), one);
        // Another server has another.
        assert_eq!(send(&mut work, 1, now), other);
        // The rest goes on beside them.
        let fresh = [send(&mut work, 0, now), send(&mut work, 1, now)];
        assert!(fresh.iter().all(|task| !task.is_suspect));
        // No time is named: the third waits for one of them.
        assert_eq!(work.next(0, now), Next::Wait(None));
        assert_eq!(work.next(1, now), Next::Wait(None));
        assert!(work.finish(other));
        assert_eq!(work.next(0, now), Next::Wait(None));
        assert_eq!(send(&mut work, 1, now), third);
        work.put_back(third, Barred::Everyone, now);
        assert_eq!(send(&mut work, 1, now), third);
        assert!(!fresh.into_iter().any(|task| work.finish(task)));
        assert!(work.finish(one) && work.finish(third));
        assert_eq!(work.next(0, now), Next::Done);
    }

    #[test]
    fn the_suspect_with_the_most_attempts_is_decided_first() {
        let mut work = work(3, 1);
        let now = Instant::now();
        let all = [(); 3].map(|()| suspect(send(&mut work, 0, now)));
        for (task, broken) in all.into_iter().zip([2, 5, 3]) {
            work.put_back(Task { broken, ..task }, Barred::Everyone, now);
        }
        for broken in [5, 3, 2] {
            let task = send(&mut work, 0, now);
            assert_eq!(task.broken, broken);
            work.finish(task);
        }
    }

    #[test]
    fn suspects_that_wait_stop_no_new_lines() {
        let mut work = work(1100, 1);
        let now = Instant::now();
        let later = now + Duration::from_secs(60);
        for _ in 0..MOST_WAITING {
            let task = suspect(send(&mut work, 0, now));
            work.put_back(task, Barred::Everyone, later);
        }
        let fresh = send(&mut work, 0, now);
        assert_eq!(fresh.line as usize, MOST_WAITING);
    }
}
