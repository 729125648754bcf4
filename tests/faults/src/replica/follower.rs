//! A follower of a store that writes. It is killed (SIGKILL, a real process); its disk loses power at any event; calls on
//! its disk fail, once or from then on. Its replica's uploads are merged and deleted meanwhile, in half of the states.
//!
//! Each snapshot of it is a prefix of the primary's commits, and has what the one before it had. After the failure it
//! opens again with at least what it had shown, also where its replica is away, if it opens there; and it comes to all
//! that the primary has written.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use larder::{Access, Error, Follower, FollowerOptions, Options, Store};

use super::kill::is_prefix;
use super::{LOOKS, NAMES, SYNCS, WRITES, log, spool};
use crate::Arguments;
use crate::cases::{Bench, Suite, Summary, seed};
use crate::check::sound;
use crate::child::{Child, tell};
use crate::disk::{Image, Mood, add_index, survive};
use crate::entries::{self, Entry, Job, clean, look};
use crate::replicated::{Replicated, rebases};
use crate::trace::{Call, Class, Disk, Event, Fault, Plan, calls};
use crate::writers::{PATIENCE, listen_until};

const DATABASE: &str = "app.db";

/// States of the disk that are made from one run.
const CUTS: usize = 6;

/// Between two looks at the replica.
const INTERVAL: Duration = Duration::from_millis(1);

/// How calls on the follower's disk fail.
const FAILURES: &[(fn(Class) -> bool, u32, Fault)] = &[
    (spool, WRITES, Fault::Full),
    (spool, WRITES | SYNCS | NAMES, Fault::Io),
    (spool, LOOKS, Fault::Io),
    (log, calls(&[Call::Write, Call::Sync]), Fault::Io),
    (log, calls(&[Call::Write]), Fault::FullHalf),
    (
        |_| true,
        calls(&[Call::Write, Call::Truncate, Call::SizeHint]),
        Fault::Full,
    ),
    (
        |_| true,
        WRITES | SYNCS | NAMES | calls(&[Call::Write, Call::Sync]),
        Fault::Io,
    ),
    (|_| true, calls(&[Call::Read]), Fault::Io),
];

// ---- the child ----

/// Follows, and tells how many commits it shows, until it is killed.
pub fn child(arguments: &[String]) {
    let [url, path, seed] = arguments else {
        panic!("replica-follower: wrong arguments")
    };
    let mut rng = Rng::with_seed(seed.parse().expect("a number"));
    loop {
        tell("opening");
        let follower = match open(url, Path::new(path), &mut rng) {
            Ok(follower) => follower,
            Err(error) => return tell(&format!("! opening: {error}")),
        };
        let mut shown = 0;
        for _ in 0..rng.usize(1..200) {
            match entries_of(&follower) {
                Ok(entries) if entries.len() > shown => {
                    shown = entries.len();
                    tell(&format!("shows {shown}"));
                }
                Ok(entries) if entries.len() < shown => {
                    return tell(&format!("! back in time: {shown} commits, then {}", entries.len()));
                }
                Ok(_) => {}
                Err(problem) => return tell(&format!("! {problem}")),
            }
            thread::sleep(Duration::from_micros(rng.u64(0..2000)));
        }
        tell("closing");
        if let Err(error) = follower.close() {
            return tell(&format!("! closing: {error}"));
        }
    }
}

fn open(url: &str, path: &Path, rng: &mut Rng) -> larder::Result<Follower> {
    Options::new()
        .checkpoint_pages([1, 8, 1000][rng.usize(0..3)])
        .close_timeout(PATIENCE)
        .readers(2)
        .follow(FollowerOptions::of(url).interval(INTERVAL), path)
}

fn entries_of(follower: &Follower) -> Result<Vec<Entry>, String> {
    let looked = follower.read(|tx| Ok(look(tx)));
    looked.map_err(|error| format!("reading: {error}"))?
}

// ---- the parent ----

pub fn run(arguments: &Arguments, states: u64) -> Summary {
    let suite = Suite::new("replica follower", arguments).expect("a folder for temporary files");
    let units = match arguments.number_of_case() {
        Some(case) => case..case + 1,
        None => arguments.from..states,
    };
    // Both wait in most cases.
    suite.run(2 * arguments.threads, units, |unit, bench| {
        let case = unit.to_string();
        let result = bench.attempt(&case, || {
            let mut rng = Rng::with_seed(seed(arguments.seed, unit, 81));
            let mut place = Place::new(bench, &mut rng)?;
            let done = match unit % 3 {
                0 => place.kill(&mut rng),
                1 => place.cut(&mut rng),
                _ => place.fail(&mut rng),
            };
            rebases(&place.database());
            done
        });
        bench.note(&case, result, None);
    })
}

/// A primary, its replica, and the folder of a follower.
struct Place {
    primary: Store,
    replica: PathBuf,
    folder: PathBuf,
    made: i64,
    /// What the follower has shown.
    shown: Vec<Entry>,
}

impl Place {
    fn new(bench: &Bench<'_>, rng: &mut Rng) -> Result<Self, String> {
        clean(&bench.folder).map_err(|error| error.to_string())?;
        let [own, folder] = ["primary", "follower"].map(|name| bench.folder.join(name));
        for folder in [&own, &folder] {
            std::fs::create_dir(folder).map_err(|error| error.to_string())?;
        }
        let replica = Replicated {
            interval: Duration::ZERO,
            ..Replicated::any(bench.folder.join("storage"), rng)
        };
        let access = if rng.bool() { Access::Exclusive } else { Access::Shared };
        let primary = Options::new()
            .replicate_to(replica.options())
            .checkpoint_pages([1, 8, 1000][rng.usize(0..3)])
            .page_size([512, 4096][rng.usize(0..2)])
            .access(access)
            .migrations(entries::migrations())
            .readers(2)
            .open(own.join(DATABASE))
            .map_err(|error| format!("the primary: {error}"))?;
        let mut place = Self {
            primary,
            replica: replica.folder,
            folder,
            made: 0,
            shown: vec![],
        };
        (0..rng.usize(1..10)).try_for_each(|_| place.write())?;
        place.flush()?;
        Ok(place)
    }

    fn database(&self) -> PathBuf {
        self.folder.join(DATABASE)
    }

    fn url(&self) -> String {
        self.replica.display().to_string()
    }

    fn write(&mut self) -> Result<(), String> {
        self.made += 1;
        let written = self.primary.write(Job::plain((1, self.made)).closure());
        written
            .map(drop)
            .map_err(|error| format!("a write of the primary: {error}"))
    }

    fn flush(&self) -> Result<(), String> {
        let flushed = self.primary.replica().and_then(|replica| replica.flush(PATIENCE));
        flushed.map(drop).map_err(|error| format!("the primary: {error}"))
    }

    fn open(&self, rng: &mut Rng) -> larder::Result<Follower> {
        open(&self.url(), &self.database(), rng)
    }

    /// Looks at a snapshot of the follower.
    fn look(&mut self, follower: &Follower) -> Result<(), String> {
        let entries = entries_of(follower)?;
        is_prefix(&self.shown, &entries).map_err(|problem| format!("what the follower had shown: {problem}"))?;
        let looked = self.primary.read(|tx| Ok(look(tx)));
        let there = looked.map_err(|error| format!("reading: {error}"))??;
        is_prefix(&entries, &there).map_err(|problem| format!("the follower and the primary: {problem}"))?;
        self.shown = entries;
        Ok(())
    }

    /// The follower opens again with what it had shown, and comes to all that is written.
    fn goes_on(&mut self, rng: &mut Rng) -> Result<(), String> {
        let follower = self
            .open(rng)
            .map_err(|error| format!("the follower does not open again: {error}"))?;
        self.look(&follower)?;
        for _ in 0..rng.usize(1..4) {
            self.write()?;
        }
        let token = self.primary.replica().map_err(|error| error.to_string())?.token();
        let came = follower.wait_for(token, PATIENCE);
        came.map_err(|error| format!("the follower does not come to what the primary has: {error}"))?;
        self.look(&follower)?;
        if self.shown.len() as i64 != self.made {
            return Err(format!(
                "{} commits were made, and it shows {}",
                self.made,
                self.shown.len()
            ));
        }
        follower.read(|tx| Ok(sound(tx))).map_err(|error| error.to_string())??;
        follower
            .close()
            .map(drop)
            .map_err(|error| format!("closing the follower: {error}"))
    }

    // ---- a kill ----

    fn kill(&mut self, rng: &mut Rng) -> Result<(), String> {
        for _ in 0..rng.usize(1..4) {
            let arguments = [
                self.url(),
                self.database().display().to_string(),
                rng.u64(..).to_string(),
            ];
            let mut child = Child::start("replica-follower", &arguments).map_err(|error| error.to_string())?;
            let mut shown = 0;
            let mut hear = |line: &str| match line.split(' ').collect::<Vec<_>>()[..] {
                ["opening" | "closing"] => Ok(()),
                ["shows", number] => {
                    shown = shown.max(number.parse().map_err(|_| format!("the child told {line:?}"))?);
                    Ok(())
                }
                _ => Err(format!("the follower: {line}")),
            };
            let waits_for = ["opening", "shows", "shows", "closing"][rng.usize(0..4)];
            for _ in 0..rng.usize(0..12) {
                self.write()?;
            }
            listen_until(&child, |line| {
                hear(line)?;
                Ok(line.starts_with(waits_for))
            })?;
            let most = rng.u64(0..20_000);
            for _ in 0..rng.usize(0..12) {
                self.write()?;
                thread::sleep(Duration::from_micros(most / 12));
            }
            child.kill();
            let (lines, status) = child.rest();
            lines.iter().try_for_each(|line| hear(line))?;
            if status.signal() != Some(libc::SIGKILL) {
                return Err(format!("the follower ended by itself: {status}"));
            }
            self.has_shown(shown)?;
        }
        self.goes_on(rng)
    }

    /// A process has shown so many commits.
    fn has_shown(&mut self, number: usize) -> Result<(), String> {
        let looked = self.primary.read(|tx| Ok(look(tx)));
        let there = looked.map_err(|error| format!("reading: {error}"))??;
        if number > self.shown.len() {
            let first = there.get(..number).ok_or("it has shown more than was written")?;
            self.shown = first.iter().map(|entry| entry.as_of(number as i64)).collect();
        }
        Ok(())
    }

    // ---- a power cut ----

    fn cut(&mut self, rng: &mut Rng) -> Result<(), String> {
        let disk = Disk::mount(&self.folder, &Image::default());
        // What was shown, and how many events had happened before.
        let mut shows: Vec<(usize, Vec<Entry>)> = vec![];
        for _ in 0..rng.usize(1..4) {
            let follower = self.open(rng).map_err(|error| format!("on a good disk: {error}"))?;
            for _ in 0..rng.usize(1..6) {
                (0..rng.usize(0..4)).try_for_each(|_| self.write())?;
                if rng.bool() {
                    let token = self.primary.replica().map_err(|error| error.to_string())?.token();
                    let came = follower.wait_for(token, PATIENCE);
                    came.map_err(|error| format!("on a good disk: {error}"))?;
                }
                self.look(&follower)?;
                // All of it was on the disk before it was shown.
                shows.push((disk.now(), self.shown.clone()));
            }
            if rng.u32(0..3) > 0 {
                follower
                    .close()
                    .map_err(|error| format!("closing, on a good disk: {error}"))?;
            }
        }
        let (events, indexes) = (disk.events(), disk.old_indexes());
        drop(disk);
        for _ in 0..CUTS {
            let cut = moment(&events, rng);
            let mood = Mood::any(rng);
            let mut image = survive(&Image::default(), &events[..cut], mood, rng);
            if image.files.contains_key(DATABASE) {
                add_index(&mut image, DATABASE, &indexes, rng);
            }
            image.write_to(&self.folder).map_err(|error| error.to_string())?;
            let before = shows.iter().rev().find(|(at, _)| *at <= cut);
            self.shown = before.map_or(vec![], |(_, shown)| shown.clone());
            let done = self.opens_without_replica(rng).and_then(|()| self.goes_on(rng));
            done.map_err(|problem| format!("cut after {cut} of {} events, {mood:?}: {problem}", events.len()))?;
        }
        Ok(())
    }

    /// Now and then the follower opens first while its replica is away. It may refuse to.
    fn opens_without_replica(&mut self, rng: &mut Rng) -> Result<(), String> {
        if rng.u32(0..3) > 0 {
            return Ok(());
        }
        let away = self.replica.with_file_name("unmounted").join("storage");
        let opened = open(&away.display().to_string(), &self.database(), rng);
        match &opened {
            Ok(follower) => self.look(follower),
            Err(Error::Replica { .. } | Error::Diverged { .. } | Error::Restore { .. }) => Ok(()),
            Err(error) => Err(format!("opening without the replica: {error}")),
        }
    }

    // ---- failing calls ----

    fn fail(&mut self, rng: &mut Rng) -> Result<(), String> {
        let disk = Disk::mount(&self.folder, &Image::default());
        let (files, calls, fault) = FAILURES[rng.usize(0..FAILURES.len())];
        let most = 1 << rng.u32(0..8);
        let plan = Plan {
            fault,
            calls,
            files,
            nth: 1 + rng.u64(0..most),
            sticky: rng.bool(),
        };
        let mut opened = None;
        if rng.u32(0..3) > 0 {
            let follower = self.open(rng).map_err(|error| format!("on a good disk: {error}"))?;
            self.look(&follower)?;
            opened = Some(follower);
        }
        disk.arm(plan);
        for _ in 0..rng.usize(1..8) {
            if opened.is_none() {
                opened = self.open(rng).ok();
            }
            self.write()?;
            thread::sleep(Duration::from_millis(rng.u64(0..8)));
            // A read may fail, and then it shows nothing.
            if let Some(follower) = &opened
                && entries_of(follower).is_ok()
                && let Err(problem) = self.look(follower)
                && !problem.starts_with("reading: ")
            {
                return Err(format!("{problem}; {plan:?}"));
            }
            if rng.u32(0..6) == 0 {
                opened = None;
            }
        }
        if let Some(follower) = &opened {
            let _ = follower.close();
        }
        drop(opened);
        let hit = disk.disarm();
        drop(disk);
        self.goes_on(rng)
            .map_err(|problem| format!("{problem}; {plan:?} hit {hit:?}"))
    }
}

/// Any event, or one near a sync.
fn moment(events: &[Event], rng: &mut Rng) -> usize {
    let is_sync = |(_, event): &(usize, &Event)| matches!(event, Event::Sync { .. } | Event::SyncFolder { .. });
    let syncs: Vec<usize> = events.iter().enumerate().filter(is_sync).map(|(at, _)| at).collect();
    let near = match rng.choice(syncs).filter(|_| rng.bool()) {
        Some(sync) => sync + rng.usize(0..3),
        None => rng.usize(0..=events.len()),
    };
    near.min(events.len())
}
