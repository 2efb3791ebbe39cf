//! The history as etcd's `key` bucket has it: every change that is there, in order.

use super::error::MvccError;
use super::keys::REV;
use super::record::Record;
use super::revision::Revision;
use crate::store::View;

/// Hands the changes of `view` from `from` on to `visit`, as the key and the value of etcd's bucket,
/// until `budget` bytes were seen. Gives where to go on; none at the end.
pub fn walk(
    view: View<'_>,
    from: Revision,
    budget: usize,
    visit: &mut dyn FnMut(&[u8], &[u8]),
) -> Result<Option<Revision>, MvccError> {
    let malformed = || MvccError::damaged("a record of a change is malformed");
    let mut cursor = view.cursor(REV);
    let mut found = cursor.seek(&from.to_bytes())?;
    let mut seen = 0;
    while found {
        let revision = Revision::from_bytes(cursor.key()).ok_or_else(malformed)?;
        if seen >= budget {
            return Ok(Some(revision));
        }
        let record = Record::decode(cursor.value()?).ok_or_else(malformed)?;
        let mut buffer = [0; 18];
        let key = revision.write_bucket_key(record.tombstone, &mut buffer);
        visit(key, record.kv);
        seen += key.len() + record.kv.len();
        found = cursor.next()?;
    }
    Ok(None)
}
