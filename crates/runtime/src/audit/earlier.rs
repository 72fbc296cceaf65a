//! What lost nodes signed: each of it must be what the node signed that took the place, which is computed again. So nothing more is to be computed.

use super::{AuditError, text};
use lockstep_base::Digest;
use lockstep_base::receipt::Receipt;
use lockstep_base::receipt_file::{ReceiptFile, StageRecord};

/// Checks the early receipts of a file whose statements were checked.
pub(super) fn check(file: &ReceiptFile) -> Result<(), AuditError> {
    file.earlier.iter().flatten().try_for_each(|record| check_record(file, record))
}

fn check_record(file: &ReceiptFile, record: &StageRecord) -> Result<(), AuditError> {
    let wrong = |index, field, got, expected| {
        Err(AuditError::Earlier { node: record.node, index, field, got, expected })
    };
    let Some(stage) = file.stages.iter().find(|stage| stage.part == record.part) else {
        return wrong(0, "part", text(&record.part), "that of a stage".into());
    };
    let (got, most) = (record.receipts.len(), stage.receipts.len());
    if got == 0 || got > most {
        return wrong(0, "number of receipts", text(&got), alloc::format!("1 to {most}"));
    }
    let mut previous = Digest::ZERO;
    for (index, (signed, whole)) in record.receipts.iter().zip(&stage.receipts).enumerate() {
        let expected = Receipt { previous, ..whole.receipt.clone() };
        if signed.receipt != expected {
            let [got, expected] = [&signed.receipt, &expected].map(|receipt| text(&receipt.struct_hash()));
            return wrong(index, "statement", got, expected);
        }
        if signed.signer() != Some(record.node) {
            let got = signed.signer().map_or("nobody's".into(), |id| text(&id));
            return wrong(index, "signature", got, text(&record.node));
        }
        previous = signed.receipt.struct_hash();
    }
    Ok(())
}
