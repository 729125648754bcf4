//! A collector of larder's events.
//!
//! The writer emits events on its own thread, so the collector is installed once for the process and shared by all
//! tests. Each test finds its own events by a value that no other test uses: a label, a path or a number.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Level, Metadata, Subscriber};
use tracing_core::span::Current;

use super::child::PATIENCE;

/// One event: where it came from, and every field as text.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) target: &'static str,
    pub(crate) level: Level,
    pub(crate) message: String,
    /// The innermost span that it is in.
    pub(crate) span: Option<Id>,
    fields: BTreeMap<&'static str, String>,
}

impl Event {
    /// A field's value; `None` if the event does not have it.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }

    /// A field that must be there.
    #[track_caller]
    pub(crate) fn expect(&self, name: &str) -> &str {
        self.field(name)
            .unwrap_or_else(|| panic!("no field {name} in {self:?}"))
    }

    /// Whether `text` is anywhere in it.
    pub(crate) fn mentions(&self, text: &str) -> bool {
        self.message.contains(text) || self.fields.values().any(|value| value.contains(text))
    }
}

/// Starts to collect, if that has not begun.
pub(crate) fn collect() {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        tracing::subscriber::set_global_default(Collector).expect("no other test sets a subscriber");
    });
}

/// The events so far, larder's and the tests' own, for which `wanted` holds.
pub(crate) fn events(wanted: impl Fn(&Event) -> bool) -> Vec<Event> {
    lock(&EVENTS).iter().filter(|event| wanted(event)).cloned().collect()
}

/// The first event for which `wanted` holds. Events of the writer thread may come after its replies.
#[track_caller]
pub(crate) fn wait_for(wanted: impl Fn(&Event) -> bool) -> Event {
    let give_up = Instant::now() + PATIENCE;
    loop {
        if let Some(event) = events(&wanted).into_iter().next() {
            return event;
        }
        assert!(Instant::now() < give_up, "the event does not come");
        std::thread::yield_now();
    }
}

/// Has the next event of that site block the thread that emits it. The first says that it does, the second lets it go.
pub(crate) fn hold(site: &str) -> (Receiver<()>, Sender<()>) {
    let (arrived, has_arrived) = channel();
    let (letting_go, let_go) = channel();
    lock(&HELD).insert(site.to_owned(), Held { arrived, let_go });
    (has_arrived, letting_go)
}

struct Held {
    arrived: Sender<()>,
    let_go: Receiver<()>,
}

static HELD: Mutex<BTreeMap<String, Held>> = Mutex::new(BTreeMap::new());
static EVENTS: Mutex<Vec<Event>> = Mutex::new(Vec::new());
static SPANS: Mutex<Option<HashMap<u64, &'static Metadata<'static>>>> = Mutex::new(None);

thread_local! {
    /// The spans that this thread is in, the innermost last.
    static ENTERED: RefCell<Vec<Id>> = const { RefCell::new(Vec::new()) };
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Collector;

impl Subscriber for Collector {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        static IDS: AtomicU64 = AtomicU64::new(1);
        let id = IDS.fetch_add(1, Ordering::Relaxed);
        lock(&SPANS).get_or_insert_default().insert(id, attributes.metadata());
        Id::from_u64(id)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        let message = fields.0.remove("message").unwrap_or_default();
        let held = fields.0.get("site").and_then(|site| lock(&HELD).remove(site));
        lock(&EVENTS).push(Event {
            target: metadata.target(),
            level: *metadata.level(),
            message,
            span: ENTERED.with_borrow(|entered| entered.last().cloned()),
            fields: fields.0,
        });
        if let Some(Held { arrived, let_go }) = held {
            let _ = arrived.send(());
            let _ = let_go.recv();
        }
    }

    fn enter(&self, span: &Id) {
        ENTERED.with_borrow_mut(|entered| entered.push(span.clone()));
    }

    fn exit(&self, span: &Id) {
        ENTERED.with_borrow_mut(|entered| {
            if let Some(at) = entered.iter().rposition(|id| id == span) {
                entered.remove(at);
            }
        });
    }

    fn current_span(&self) -> Current {
        let Some(id) = ENTERED.with_borrow(|entered| entered.last().cloned()) else {
            return Current::none();
        };
        let metadata = lock(&SPANS).get_or_insert_default()[&id.into_u64()];
        Current::new(id, metadata)
    }
}

#[derive(Default)]
struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}
