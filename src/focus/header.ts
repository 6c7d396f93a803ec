// What the header of a FOCUS file says: which columns it has, in its order.
import { type CellReader, readerOf, readText } from "./cells.ts";
import { FOCUS_COLUMNS, type FocusVersion, REQUIRED_COLUMNS } from "./columns.ts";
import { type Place, refusal, shown } from "./refusal.ts";

/** `position` is the place in `FOCUS_COLUMNS`; undefined for a column that FOCUS up to 1.2 does not have. */
export type HeaderColumn = {
  name: string;
  position: number | undefined;
  mustBeFilled: boolean;
  read: CellReader;
};

/** The columns of a file, and the newest FOCUS version that one of them needs. */
export type Header = { version: FocusVersion; columns: HeaderColumn[] };

/** Reads the header row. Throws `focus_invalid` naming the first mandatory column of FOCUS 1.0 that is missing. */
export function readHeader(names: string[], at: Omit<Place, "column">): Header {
  const seen = new Set<string>();
  for (const [index, name] of names.entries()) {
    const fault = faultOf(name, names.length, seen);
    if (fault !== undefined) throw refusal({ ...at, column: name || `number ${index + 1}` }, fault);
    seen.add(name);
  }
  const missing = REQUIRED_COLUMNS.find((each) => !seen.has(each));
  if (missing !== undefined) {
    const reason = "FOCUS 1.0 requires this column and the header does not have it";
    throw refusal({ ...at, column: missing }, reason, { hint: hintFor(missing, names) });
  }
  const known = FOCUS_COLUMNS.filter((each) => seen.has(each.focus));
  const version = known
    .map((each) => each.since)
    .reduce((newest, each) => (each > newest ? each : newest), "1.0");
  return { version, columns: names.map(headerColumn) };
}

function headerColumn(name: string): HeaderColumn {
  const position = FOCUS_COLUMNS.findIndex((each) => each.focus === name);
  const column = FOCUS_COLUMNS[position];
  if (column === undefined) return { name, position: undefined, mustBeFilled: false, read: readText };
  return { name, position, mustBeFilled: column.presence === "filled", read: readerOf(column) };
}

function faultOf(name: string, columns: number, seen: Set<string>): string | undefined {
  if (name === "" && columns > 1) return "the header gives this column no name";
  if (seen.has(name)) return "the header names this column twice";
  if (/[\p{Cc}\uFFFD]/u.test(name) && columns > 1)
    return "the name holds control characters or is not valid UTF-8";
  return undefined;
}

function hintFor(missing: string, names: string[]): string {
  const near = names.find((name) => name.trim().toLowerCase() === missing.toLowerCase());
  if (near !== undefined) return `The header has "${shown(near)}"; FOCUS spells it ${missing}.`;
  const separator = [";", "\t", "|"].find((each) => names.length === 1 && names[0]?.includes(each));
  if (separator !== undefined)
    return `The columns seem to be separated by "${shown(separator)}"; use commas.`;
  return "Export the file as FOCUS 1.0 or later, with its header row.";
}
