//! What runs and what ran lately: rows that are open, and a bounded number of those that have ended. It is shown by
//! `system.queries` and `system.subqueries`, and decides nothing.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Cheap to clone; all clones are one book.
#[derive(Debug)]
pub struct Book<R> {
    shared: Arc<Shared<R>>,
}

#[derive(Debug)]
struct Shared<R> {
    kept_max: usize,
    pages: Mutex<Pages<R>>,
}

#[derive(Debug)]
struct Pages<R> {
    next: u64,
    open: BTreeMap<u64, R>,
    /// Oldest first.
    past: VecDeque<R>,
}

impl<R> Clone for Book<R> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<R: Clone> Book<R> {
    /// A book that keeps so many rows that have ended.
    pub fn new(kept_max: usize) -> Self {
        let pages = Mutex::new(Pages { next: 0, open: BTreeMap::new(), past: VecDeque::new() });
        Self { shared: Arc::new(Shared { kept_max, pages }) }
    }

    /// Opens a row. It is moved to the past when the entry is dropped.
    pub fn open(&self, row: R) -> Entry<R> {
        let mut pages = self.pages();
        pages.next += 1;
        let id = pages.next;
        pages.open.insert(id, row);
        Entry { book: self.clone(), id }
    }

    /// Open rows, then those that have ended; the newest of each first.
    pub fn rows(&self) -> Vec<R> {
        let pages = self.pages();
        pages.open.values().rev().chain(pages.past.iter().rev()).cloned().collect()
    }

    /// Shows every row to somebody, in no order.
    pub fn visit(&self, mut look: impl FnMut(&R)) {
        let pages = self.pages();
        pages.open.values().chain(&pages.past).for_each(&mut look);
    }

    fn pages(&self) -> MutexGuard<'_, Pages<R>> {
        self.shared.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An open row.
#[derive(Debug)]
pub struct Entry<R: Clone> {
    book: Book<R>,
    id: u64,
}

impl<R: Clone> Entry<R> {
    pub fn change<T>(&self, change: impl FnOnce(&mut R) -> T) -> Option<T> {
        self.book.pages().open.get_mut(&self.id).map(change)
    }
}

impl<R: Clone> Drop for Entry<R> {
    fn drop(&mut self) {
        let mut pages = self.book.pages();
        if let Some(row) = pages.open.remove(&self.id) {
            pages.past.push_back(row);
            while pages.past.len() > self.book.shared.kept_max {
                pages.past.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_is_open_and_a_bounded_past() {
        let book = Book::new(2);
        let first = book.open(1);
        let rest: Vec<_> = (2..=4).map(|n| book.open(n)).collect();
        first.change(|row| *row = 10);
        drop(rest);
        assert_eq!(book.rows(), [10, 4, 3]);
        drop(first);
        assert_eq!(book.rows(), [10, 4]);
    }
}
