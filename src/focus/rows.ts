// One row of a FOCUS file as one composite literal of `app.cost_line_cells`.
import { BadCell, isNull } from "./cells.ts";
import { FOCUS_COLUMNS } from "./columns.ts";
import type { Header, HeaderColumn } from "./header.ts";
import { type Place, refusal } from "./refusal.ts";

/** The line that is being read, and whether all bytes so far were UTF-8. */
export type RowPlace = Omit<Place, "column"> & { isUtf8: boolean };

/**
 * Writes a row as `(a,b,…)`: null is an empty field, every other value stands in double quotes. Throws `focus_invalid`
 * for the first cell that cannot be taken. Columns that we do not know go to `extra`, a JSON object.
 */
export function rowLiteral(header: Header, cells: string[], at: RowPlace): string {
  const flags = new Set<string>();
  const values = new Array<string | null>(FOCUS_COLUMNS.length).fill(null);
  const extra: [string, string][] = [];
  for (const [index, column] of header.columns.entries()) {
    const value = readCell(column, cells[index] ?? "", flags, at);
    if (column.position !== undefined) values[column.position] = value;
    else if (value !== null) extra.push([column.name, value]);
  }
  refusePeriod(values, "BillingPeriod", at);
  refusePeriod(values, "ChargePeriod", at);
  const rest = extra.length === 0 ? null : JSON.stringify(Object.fromEntries(extra));
  const readerFlags = flags.size === 0 ? null : `{${[...flags].join(",")}}`;
  return `(${[String(at.line), ...values, rest, readerFlags].map(quoted).join(",")})`;
}

function readCell(column: HeaderColumn, cell: string, flags: Set<string>, at: RowPlace): string | null {
  const isEmpty = isNull(cell);
  if (isEmpty && !column.mustBeFilled) return null;
  try {
    if (isEmpty) throw new BadCell("FOCUS requires a value here");
    // A byte that is not UTF-8 arrives as U+FFFD.
    if (!at.isUtf8 && cell.includes("\uFFFD"))
      throw new BadCell("it is not valid UTF-8; save the file as UTF-8");
    return column.read(cell, flags);
  } catch (error) {
    if (!(error instanceof BadCell)) throw error;
    throw refusal({ file: at.file, line: at.line, column: column.name }, error.message, { value: cell });
  }
}

const POSITION = new Map(FOCUS_COLUMNS.map((column, position) => [column.focus, position]));

/** A period ends after it begins. Instants are in one format, so they compare as text. */
function refusePeriod(values: (string | null)[], period: string, { file, line }: RowPlace): void {
  const start = values[POSITION.get(`${period}Start`)!] ?? "";
  const end = values[POSITION.get(`${period}End`)!] ?? "";
  if (end > start) return;
  throw refusal({ file, line, column: `${period}End` }, `it is not after the start, ${start}`, {
    value: end,
  });
}

const MUST_DOUBLE = /["\\]/;

function quoted(value: string | null): string {
  if (value === null) return "";
  return `"${MUST_DOUBLE.test(value) ? value.replace(/["\\]/g, "$&$&") : value}"`;
}
