//! Receipts on disk (redb). What is kept are signed statements: salted roots, no token, no text,
//! no task secret. A receipt file, which can be read by whoever holds it, is never stored here.

use lockstep_base::Digest;
use lockstep_base::cbor::{self, CborError};
use lockstep_base::receipt::SignedReceipt;
use lockstep_base::receipt_file::ReceiptFile;
use redb::{Database, ReadableDatabase as _, ReadableTableMetadata as _, TableDefinition};
use std::path::Path;

/// (task, stage, first token) to the stored form of a receipt.
const RECEIPTS: TableDefinition<'_, (&[u8], u16, u32), &[u8]> = TableDefinition::new("receipts/1");

/// Why the store failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The database.
    #[error("receipt store: {0}")]
    Database(String),
    /// A stored receipt cannot be read.
    #[error("receipt store: {0}")]
    Receipt(#[from] CborError),
}

fn database(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Database(error.into().to_string())
}

/// The receipts of a gateway.
#[derive(Debug)]
pub struct ReceiptStore(Database);

impl ReceiptStore {
    /// Opens or makes the store at `path`.
    ///
    /// # Errors
    /// [`StoreError`] if it is locked, damaged or not to be written.
    pub fn open(path: &Path) -> Result<ReceiptStore, StoreError> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|error| StoreError::Database(error.to_string()))?;
        }
        Ok(ReceiptStore(Database::create(path).map_err(database)?))
    }

    /// Keeps the receipts of an answer, all or none.
    ///
    /// # Errors
    /// [`StoreError`] if they cannot be written.
    pub fn insert(&self, file: &ReceiptFile) -> Result<(), StoreError> {
        let transaction = self.0.begin_write().map_err(database)?;
        {
            let mut table = transaction.open_table(RECEIPTS).map_err(database)?;
            for signed in file.stages.iter().flat_map(|stage| &stage.receipts) {
                let receipt = &signed.receipt;
                let key = (file.task.0.as_slice(), receipt.stage, receipt.first_token);
                table.insert(key, cbor::encode(signed).as_slice()).map_err(database)?;
            }
        }
        transaction.commit().map_err(database)
    }

    /// The receipts of `task`, stage by stage.
    ///
    /// # Errors
    /// [`StoreError`] if they cannot be read.
    pub fn of_task(&self, task: &Digest) -> Result<Vec<SignedReceipt>, StoreError> {
        let transaction = self.0.begin_read().map_err(database)?;
        let table = match transaction.open_table(RECEIPTS) {
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            table => table.map_err(database)?,
        };
        let range = (task.0.as_slice(), 0, 0)..=(task.0.as_slice(), u16::MAX, u32::MAX);
        table
            .range(range)
            .map_err(database)?
            .map(|entry| Ok(cbor::decode("stored receipt", entry.map_err(database)?.1.value())?))
            .collect()
    }

    /// Receipts in the store.
    ///
    /// # Errors
    /// [`StoreError`] if they cannot be counted.
    pub fn count(&self) -> Result<u64, StoreError> {
        let transaction = self.0.begin_read().map_err(database)?;
        match transaction.open_table(RECEIPTS) {
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(0),
            table => table.map_err(database)?.len().map_err(database),
        }
    }
}
