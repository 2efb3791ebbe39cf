//! Files that have changed: when to read them again.
//!
//! They are looked at again and again, and read when two looks in a row show the same change: a set that is still being
//! written is not read. What was read and could not be used is not read again until it has changed once more.

/// By what a file is seen to have changed. None: it is not there.
pub type Stamp = Option<(u64, u64, i128)>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Wait,
    /// To be followed by [`Reload::took`] or [`Reload::refused`].
    Read,
}

#[derive(Debug)]
pub struct Reload {
    /// Of the set in use.
    taken: Vec<Stamp>,
    seen: Vec<Stamp>,
    /// Of a set that could not be used.
    refused: Option<Vec<Stamp>>,
}

impl Reload {
    /// `taken` was looked at before the set in use was read.
    pub fn new(taken: Vec<Stamp>) -> Reload {
        Reload { seen: taken.clone(), taken, refused: None }
    }

    pub fn look(&mut self, stamps: Vec<Stamp>) -> Step {
        let is_quiet = stamps == self.seen;
        let is_new = stamps != self.taken && self.refused.as_ref() != Some(&stamps);
        self.seen = stamps;
        if is_quiet && is_new { Step::Read } else { Step::Wait }
    }

    /// The set is in use. `after`: as the files looked when they had been read; if they had changed meanwhile, they are
    /// read once more.
    pub fn took(&mut self, after: Vec<Stamp>) {
        self.taken = self.seen.clone();
        self.seen = after;
        self.refused = None;
    }

    pub fn refused(&mut self) {
        self.refused = Some(self.seen.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(time: i128) -> Vec<Stamp> {
        vec![Some((1, 1, time)), None]
    }

    #[test]
    fn a_change_is_read_once_when_it_is_over() {
        let mut reload = Reload::new(at(1));
        assert_eq!(reload.look(at(1)), Step::Wait);
        assert_eq!(reload.look(at(2)), Step::Wait, "it may still be going on");
        assert_eq!(reload.look(at(3)), Step::Wait, "it does");
        assert_eq!(reload.look(at(3)), Step::Read);
        reload.took(at(3));
        assert_eq!(reload.look(at(3)), Step::Wait);
    }

    #[test]
    fn a_change_while_the_files_are_read_is_read_again() {
        let mut reload = Reload::new(at(1));
        reload.look(at(2));
        assert_eq!(reload.look(at(2)), Step::Read);
        reload.took(at(3));
        assert_eq!(reload.look(at(3)), Step::Read);
    }

    #[test]
    fn a_set_that_cannot_be_used_is_refused_once_and_the_next_change_is_a_new_chance() {
        let mut reload = Reload::new(at(1));
        reload.look(at(2));
        assert_eq!(reload.look(at(2)), Step::Read);
        reload.refused();
        assert_eq!(reload.look(at(2)), Step::Wait);
        reload.look(at(4));
        assert_eq!(reload.look(at(4)), Step::Read);
        reload.took(at(4));
        assert_eq!(reload.look(at(1)), Step::Wait);
        assert_eq!(reload.look(at(1)), Step::Read, "what was used once is a change now");
    }
}
