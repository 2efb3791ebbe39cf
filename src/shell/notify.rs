//! A flag that one task waits for.
//!
//! One waker is kept, that of the only waiter: glommio counts a task's wakers in an i16, so a
//! task that many others hold wakers of would end the process some day.

use std::cell::{Cell, RefCell};
use std::task::{Poll, Waker};

/// Set by anyone, awaited by one task. Setting it many times before the waiter runs is one wake.
#[derive(Debug, Default)]
pub struct Notify {
    set: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

impl Notify {
    pub fn notify(&self) {
        self.set.set(true);
        if let Some(waiter) = self.waiter.take() {
            waiter.wake();
        }
    }

    /// Ready once per [`notify`](Self::notify) or run of them.
    pub fn poll(&self, waker: &Waker) -> Poll<()> {
        if self.set.replace(false) {
            return Poll::Ready(());
        }
        let mut waiter = self.waiter.borrow_mut();
        if waiter.as_ref().is_none_or(|kept| !kept.will_wake(waker)) {
            *waiter = Some(waker.clone());
        }
        Poll::Pending
    }

    pub async fn wait(&self) {
        std::future::poll_fn(|context| self.poll(context.waker())).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    struct Counter(AtomicUsize);
    impl Wake for Counter {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_flag_set_before_the_wait_is_not_lost() {
        let notify = Notify::default();
        notify.notify();
        assert!(notify.poll(Waker::noop()).is_ready());
        assert!(notify.poll(Waker::noop()).is_pending());
    }

    #[test]
    fn many_notifications_are_one_wake_of_one_waker() {
        let notify = Notify::default();
        let counter = Arc::new(Counter(AtomicUsize::new(0)));
        let waker = Waker::from(counter.clone());
        for _ in 0..1000 {
            assert!(notify.poll(&waker).is_pending());
        }
        assert_eq!(Arc::strong_count(&counter), 3, "ours, the waker's, and one that is kept");
        notify.notify();
        notify.notify();
        assert_eq!(counter.0.load(Ordering::Relaxed), 1);
        assert!(notify.poll(&waker).is_ready());
    }
}
