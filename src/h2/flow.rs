//! Flow control windows (RFC 9113, 5.2 and 6.9).

use super::limits::WINDOW_BYTES_MAX;

/// A window went above 2^31 - 1, or a peer sent more than it was allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowError;

/// What this end may still send. Negative when the peer lowered its initial window meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendWindow(i64);

impl SendWindow {
    pub fn new(initial_bytes: u32) -> SendWindow {
        SendWindow(i64::from(initial_bytes))
    }

    #[inline]
    pub fn available(self) -> usize {
        usize::try_from(self.0).unwrap_or(0)
    }

    /// WINDOW_UPDATE.
    pub fn grow(&mut self, increment: u32) -> Result<(), FlowError> {
        self.shift(i64::from(increment))
    }

    /// A change of SETTINGS_INITIAL_WINDOW_SIZE (RFC 9113, 6.9.2).
    pub fn shift(&mut self, difference: i64) -> Result<(), FlowError> {
        let shifted = self.0 + difference;
        if shifted > i64::from(WINDOW_BYTES_MAX) {
            return Err(FlowError);
        }
        self.0 = shifted;
        Ok(())
    }

    /// The caller sends no more than is available.
    #[inline]
    pub fn take(&mut self, sent: usize) {
        self.0 -= sent as i64;
    }
}

/// What the peer may still send, and what it has sent that has been consumed but not yet been given
/// back to it. `open + owed + held by the application == size` at all times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiveWindow {
    open: u32,
    owed: u32,
    size: u32,
}

impl ReceiveWindow {
    pub fn new(size: u32) -> ReceiveWindow {
        ReceiveWindow { open: size, owed: 0, size }
    }

    #[inline]
    pub fn receive(&mut self, bytes: u32) -> Result<(), FlowError> {
        self.open = self.open.checked_sub(bytes).ok_or(FlowError)?;
        Ok(())
    }

    /// Gives bytes back; the increment to announce when half the window has gathered.
    #[inline]
    pub fn consume(&mut self, bytes: u32) -> Option<u32> {
        self.owed += bytes;
        if self.owed == 0 || self.owed < self.size / 2 {
            return None;
        }
        self.open += self.owed;
        Some(std::mem::take(&mut self.owed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_send_window_may_become_negative_but_not_pass_two_gibibytes() {
        let mut window = SendWindow::new(65_535);
        window.take(60_000);
        window.shift(-65_535).unwrap();
        assert_eq!((window, window.available()), (SendWindow(-60_000), 0));
        window.grow(60_001).unwrap();
        assert_eq!(window.available(), 1);
        assert_eq!(window.grow(WINDOW_BYTES_MAX), Err(FlowError));
        window.grow(WINDOW_BYTES_MAX - 1).unwrap();
        assert_eq!(window.available(), WINDOW_BYTES_MAX as usize);
    }

    #[test]
    fn a_receive_window_is_given_back_in_halves() {
        let mut window = ReceiveWindow::new(100);
        window.receive(60).unwrap();
        assert_eq!(window.consume(49), None);
        assert_eq!(window.receive(41), Err(FlowError));
        assert_eq!(window.consume(11), Some(60));
        window.receive(100).unwrap();
        assert_eq!(window.consume(100), Some(100));
        assert_eq!(ReceiveWindow::new(0).consume(0), None);
    }
}
