//! Who sends which line next. Each server has a range of the order and sends it from its beginning; one that has finished
//! takes over half of the longest range that is left. Lines that have to be sent again go first.

use std::collections::HashMap;
use std::ops::Range;
use std::time::Instant;

use super::order::Order;

/// A line to send.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Task {
    /// Its index in the input.
    pub line: u32,
    /// The hash of its group.
    pub group: u32,
    /// How often it has been refused because a server was busy, in succession.
    pub busy: u32,
    /// How often it has failed otherwise, after it was sent.
    pub failed: u32,
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
    /// Lines to send again.
    again: Vec<Task>,
    /// When a server may have a line again that it did not answer. Others may have it at once.
    waits: HashMap<(u32, usize), Instant>,
    /// The lines that are being sent, and since when.
    in_flight: HashMap<u32, Instant>,
}

impl Work {
    /// For this many servers.
    pub fn new(order: Order, servers: usize) -> Self {
        Self {
            ranges: (0..servers).map(|it| order.part(it, servers)).collect(),
            order,
            again: Vec::new(),
            waits: HashMap::new(),
            in_flight: HashMap::new(),
        }
    }

    /// The next line for a server.
    pub fn next(&mut self, server: usize, now: Instant) -> Next {
        let task = self.take_again(server, now);
        let task = task.or_else(|| self.take_new(server));
        match task {
            Some(task) => {
                self.in_flight.insert(task.line, now);
                Next::Send(task)
            }
            None if self.is_done() => Next::Done,
            None => {
                let waits = self.again.iter();
                let waits = waits.filter_map(|task| self.waits.get(&(task.line, server)));
                Next::Wait(waits.min().copied())
            }
        }
    }

    /// The line has its answer.
    pub fn finish(&mut self, task: Task) {
        self.in_flight.remove(&task.line);
    }

    /// The line has to be sent again, by the server `from` not before that time.
    pub fn put_back(&mut self, task: Task, from: usize, not_before: Instant) {
        self.in_flight.remove(&task.line);
        let now = Instant::now();
        self.waits.retain(|_, until| *until > now);
        self.waits.insert((task.line, from), not_before);
        self.again.push(task);
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
        self.ranges.iter().map(Range::len).sum::<usize>() + self.again.len()
    }

    fn take_again(&mut self, server: usize, now: Instant) -> Option<Task> {
        let may_have = |task: &Task| {
            let until = self.waits.get(&(task.line, server));
            until.is_none_or(|until| *until <= now)
        };
        let found = self.again.iter().position(may_have)?;
        Some(self.again.remove(found))
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
    use std::time::Duration;

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
        Work::new(Order::new(&beginnings), servers)
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
        work.put_back(task, 0, later);
        assert_eq!(work.next(0, now), Next::Wait(Some(later)));
        assert_eq!(work.in_flight(), 1);
        assert_eq!(send(&mut work, 1, now), task);
        work.put_back(task, 1, later);
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
}
