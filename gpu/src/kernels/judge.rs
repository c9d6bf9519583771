//! Signatures through the kernels: by the table of expanded keys or by each key itself, in slices over all streams, so
//! that one slice is copied while another is checked.

use std::collections::VecDeque;

use super::batch::{Batches, KeyUse, b, count_u32, words};
use super::machine::{Argument, DeviceError, Kernel, Machine, POISON};
use super::table::{ENTRY, Placed, Places};
use crate::verify::VerifyItem;

/// Bytes of w1 for one signature.
const COMMITTED: usize = 1_024;
/// Signatures whose keys are placed in the table at once. A pass ends before the next one's keys are placed: nothing reads
/// the table then.
const PASS: usize = 1 << 16;
/// Signatures in one slice: 15 MB, 0.6 ms on a bus of 25 GB/s, and as many blocks as fill the largest devices with two
/// streams. Some 30 MB of a device's memory a stream.
pub(crate) const SLICE: usize = 2_048;

/// Bytes of a slice, if it has more than one signature: messages may be long, and a device's memory is bounded.
const SLICE_BYTES: usize = 64 << 20;

/// How the keys of a slice reach the kernels.
enum How<'a, B> {
    /// The table, and each signature's place in it.
    Cached { table: &'a B, entries: u32, slots: Vec<u32> },
    /// With the signatures.
    Each,
}

/// A slice under way. Its memory must stay until its verdicts are there.
struct Started<M: Machine> {
    /// Which stream.
    stream: usize,
    /// Whose verdicts it brings, in order.
    places: Vec<usize>,
    arrival: M::Arrival,
    _memory: Vec<M::Buffer>,
}

/// Bytes that go to the machine for it.
fn size(item: &VerifyItem<'_>) -> usize {
    item.signature.len() + item.public_key.len() + item.context.len() + item.message.len()
}

/// Cuts a list into pieces of at most so many items and so many bytes, but of one item at least.
fn cut<T>(list: &[T], items: usize, bytes: usize, size: impl Fn(&T) -> usize) -> impl Iterator<Item = &[T]> {
    let mut rest = list;
    std::iter::from_fn(move || {
        let mut sum = 0_usize;
        let fit = rest.iter().take(items).take_while(|item| {
            sum = sum.saturating_add(size(item));
            sum <= bytes
        });
        let (piece, later) = rest.split_at(fit.count().max(1).min(rest.len()));
        rest = later;
        (!piece.is_empty()).then_some(piece)
    })
}

impl<M: Machine> Batches<M> {
    /// The verdicts. What is malformed in its lengths is invalid and not shown to the kernels.
    pub(crate) fn verify(&mut self, items: &[VerifyItem<'_>], keys: KeyUse) -> Result<Vec<bool>, DeviceError> {
        let verdicts = self.verdicts(items, keys);
        if verdicts.is_err() {
            // Nothing may read a table whose content nobody knows, nor use its memory for something else.
            self.settle();
            if let Some((_, places)) = &mut self.table {
                places.forget();
            }
        }
        verdicts
    }

    fn verdicts(&mut self, items: &[VerifyItem<'_>], keys: KeyUse) -> Result<Vec<bool>, DeviceError> {
        let mut verdicts = vec![false; items.len()];
        let well_formed: Vec<usize> = (0..items.len()).filter(|at| items[*at].well_formed()).collect();
        for pass in well_formed.chunks(PASS) {
            let placed = match keys {
                KeyUse::Each => Placed { slots: vec![None; pass.len()], fill: Vec::new() },
                KeyUse::Table => self.place(items, pass)?,
            };
            let (known, strangers): (Vec<_>, Vec<_>) =
                pass.iter().copied().zip(placed.slots).partition(|(_, slot)| slot.is_some());
            let cut = |list| cut(list, self.slice(), SLICE_BYTES, |(at, _): &(usize, _)| size(&items[*at]));
            let slices = cut(&known).map(|slice| (slice, true)).chain(cut(&strangers).map(|slice| (slice, false)));
            let (mut under_way, count) = (VecDeque::new(), self.streams().len());
            for (number, (slice, is_known)) in slices.enumerate() {
                if under_way.len() == count {
                    self.finish(&mut under_way, &mut verdicts)?;
                }
                let places: Vec<usize> = slice.iter().map(|(at, _)| *at).collect();
                let how = match &self.table {
                    Some((table, entries)) if is_known => How::Cached {
                        table,
                        entries: count_u32(entries.entries())?,
                        slots: slice.iter().map(|(_, slot)| slot.unwrap_or(u32::MAX)).collect(),
                    },
                    _ => How::Each,
                };
                // The first stream fills the table: the others begin.
                under_way.push_back(self.start((number + 1) % count, places, items, how)?);
            }
            while !under_way.is_empty() {
                self.finish(&mut under_way, &mut verdicts)?;
            }
        }
        Ok(verdicts)
    }

    /// Signatures of a slice: all of a pass while kernels are timed, so that none waits for a copy.
    fn slice(&self) -> usize {
        if self.is_timed() { PASS } else { self.slice }
    }

    /// Waits for the oldest slice.
    fn finish(&self, under_way: &mut VecDeque<Started<M>>, verdicts: &mut [bool]) -> Result<(), DeviceError> {
        let Some(Started { stream, places, arrival, _memory }) = under_way.pop_front() else { return Ok(()) };
        let mut bytes = vec![POISON; places.len()];
        self.streams()[stream].arrive(arrival, &mut bytes)?;
        for (place, verdict) in places.into_iter().zip(bytes) {
            verdicts[place] = match verdict {
                0 => false,
                1 => true,
                _ => return Err(DeviceError::NoAnswer(Kernel::Verdicts.name())),
            };
        }
        Ok(())
    }

    /// Places the keys of a pass, and fills the places that are new. No stream has work at this time; what they are
    /// given afterwards waits for the filling.
    fn place(&mut self, items: &[VerifyItem<'_>], pass: &[usize]) -> Result<Placed, DeviceError> {
        self.open_table()?;
        let Some((_, places)) = &mut self.table else { return Err(DeviceError::NoAnswer(Kernel::Expand.name())) };
        let placed = places.place(pass.iter().map(|at| items[*at].public_key));
        let Some((table, _)) = &self.table else { return Err(DeviceError::NoAnswer(Kernel::Expand.name())) };
        let filler = &self.streams()[0];
        for fill in placed.fill.chunks(self.slice()) {
            let keys: Vec<&[u8]> = fill.iter().map(|(_, item)| items[pass[*item]].public_key).collect();
            let (keys, slots) = (filler.upload(&keys)?, filler.upload(&[&words(fill.iter().map(|(slot, _)| *slot))])?);
            self.timed(filler, || self.launch(filler, Kernel::Expand, fill.len(), &[b(&keys), b(&slots), b(table)]))?;
        }
        for stream in &self.streams()[1..] {
            stream.follow(filler)?;
        }
        Ok(placed)
    }

    /// Starts the checking of a slice.
    fn start(
        &self,
        stream: usize,
        places: Vec<usize>,
        items: &[VerifyItem<'_>],
        how: How<'_, M::Buffer>,
    ) -> Result<Started<M>, DeviceError> {
        let (count, m) = (places.len(), &self.streams()[stream]);
        let items = || places.iter().map(|at| &items[*at]);
        // FIPS 204, algorithm 3, step 10: well-formed contexts have a length of one byte.
        let heads: Vec<[u8; 2]> =
            items().map(|item| [0, u8::try_from(item.context.len()).unwrap_or(u8::MAX)]).collect();
        let messages: Vec<&[u8]> =
            items().zip(&heads).flat_map(|(item, head)| [head, item.context, item.message]).collect();
        let mut end = 0;
        let ends = items().map(|item| {
            end += (2 + item.context.len() + item.message.len()) as u64;
            end
        });
        let offsets: Vec<u8> = std::iter::once(0).chain(ends).flat_map(u64::to_le_bytes).collect();
        let signatures: Vec<&[u8]> = items().map(|item| item.signature).collect();
        let (signatures, messages, offsets) = (m.upload(&signatures)?, m.upload(&messages)?, m.upload(&[&offsets])?);
        let (mu, challenges) = (m.filled(64 * count, POISON)?, m.filled(256 * count, POISON)?);
        let (w1, formed) = (m.filled(COMMITTED * count, POISON)?, m.filled(count, POISON)?);
        let (verdicts, end) = (m.filled(count, POISON)?, || Argument::U64(count as u64));
        let keys = match &how {
            How::Cached { slots, .. } => m.upload(&[&words(slots.iter().copied())])?,
            How::Each => m.upload(&items().map(|item| item.public_key).collect::<Vec<_>>())?,
        };
        self.timed(m, || {
            match how {
                How::Cached { table, entries, .. } => {
                    let entries = || Argument::U32(entries);
                    let arguments = [
                        b(table),
                        b(&keys),
                        entries(),
                        b(&signatures),
                        b(&messages),
                        b(&offsets),
                        b(&mu),
                        b(&challenges),
                        end(),
                    ];
                    self.launch(m, Kernel::PrepareCached, count, &arguments)?;
                    let arguments = [b(table), b(&keys), entries(), b(&signatures), b(&challenges), b(&w1), b(&formed)];
                    self.launch(m, Kernel::RowsCached, count, &arguments)?;
                }
                How::Each => {
                    let arguments =
                        [b(&keys), b(&signatures), b(&messages), b(&offsets), b(&mu), b(&challenges), end()];
                    self.launch(m, Kernel::Prepare, count, &arguments)?;
                    let arguments = [b(&keys), b(&signatures), b(&challenges), b(&w1), b(&formed)];
                    self.launch(m, Kernel::Rows, count, &arguments)?;
                }
            }
            let arguments = [b(&signatures), b(&mu), b(&w1), b(&formed), b(&verdicts), end()];
            self.launch(m, Kernel::Verdicts, count, &arguments)
        })?;
        let arrival = m.send(&verdicts, count)?;
        let memory = vec![signatures, messages, offsets, mu, challenges, w1, formed, verdicts, keys];
        Ok(Started { stream, places, arrival, _memory: memory })
    }

    /// Makes the table before its first use: the largest that the device has memory for, up to the bound.
    fn open_table(&mut self) -> Result<(), DeviceError> {
        if self.table.is_some() {
            return Ok(());
        }
        let mut entries = (self.table_bytes / ENTRY).max(1);
        loop {
            match self.streams()[0].filled(entries * ENTRY, POISON) {
                Ok(memory) => {
                    self.table = Some((memory, Places::new(entries)));
                    return Ok(());
                }
                Err(error) if entries == 1 => return Err(error),
                Err(error) => {
                    entries /= 2;
                    tracing::info!(%error, entries, "less memory for expanded keys on the device");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::cut;

    #[test]
    fn pieces_hold_their_bounds_and_nothing_is_left_out() {
        let sizes = [5, 5, 5, 100, 1, 1, 1, 1, 1, 9];
        let pieces: Vec<&[usize]> = cut(&sizes, 4, 10, |size| *size).collect();
        assert_eq!(pieces, [&[5, 5][..], &[5], &[100], &[1, 1, 1, 1], &[1, 9]]);
        assert_eq!(cut(&[], 4, 10, |size: &usize| *size).count(), 0);
        assert_eq!(cut(&[usize::MAX, 1, 2], 1, usize::MAX, |size| *size).count(), 3);
    }
}
