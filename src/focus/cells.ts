// What a cell of a FOCUS file may hold, and how it is written for Postgres. Money and quantities stay text.
import type { FocusColumn } from "./columns.ts";

/** A cell that cannot be taken. The message completes "column X, value Y: …". */
export class BadCell extends Error {}

/** Reads one cell that is not null. Returns its text for Postgres, or null; adds to `flags` what SQL cannot see. */
export type CellReader = (cell: string, flags: Set<string>) => string | null;

/** The reader of a column, by its name where FOCUS fixes the values, else by its type. */
export function readerOf(column: FocusColumn): CellReader {
  return READER_BY_NAME[column.focus] ?? READER_BY_TYPE[column.type];
}

/** Null is an empty cell or the word NULL, which real exports write. */
export function isNull(cell: string): boolean {
  return cell === "" || cell === "NULL" || cell === "null";
}

/**
 * Text as it is, without control characters other than tab and line breaks: a terminal or a model would obey them.
 * Throws `BadCell` for a NUL, which no Postgres text can hold.
 */
export function readText(cell: string, flags: Set<string>): string {
  if (!CONTROL_CHARACTER.test(cell)) return cell;
  if (cell.includes("\0")) throw new BadCell("it holds a NUL character");
  flags.add("control_characters_removed");
  return cell.replace(CONTROL_CHARACTERS, "");
}

const CONTROL_CHARACTER = /[^\P{Cc}\t\n\r]/u;
const CONTROL_CHARACTERS = /[^\P{Cc}\t\n\r]/gu;

const DECIMAL = /^[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE]([+-]?\d{1,4}))?$/;
const DECIMAL_MAX_LENGTH = 100;
const EXPONENT_MAX = 60;

/** A decimal number, E-notation too, kept as text. Throws `BadCell` for currency signs, separators, NaN, 1e400. */
function readDecimal(cell: string): string {
  const match = DECIMAL.exec(cell);
  if (match === null) throw new BadCell("it is not a plain decimal number");
  if (cell.length > DECIMAL_MAX_LENGTH || Math.abs(Number(match[1] ?? 0)) > EXPONENT_MAX) {
    throw new BadCell("it is a number beyond any bill");
  }
  return cell;
}

const ISO_INSTANT =
  /^(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:\.\d{1,9})?)? ?(?:Z|UTC|([+-])(\d\d):?(\d\d)?)?)?$/;

const instants = new Map<string, string>();

/** An ISO 8601 date and time as UTC, to the second. Without a zone it is UTC. Years 2000 to 2099. */
function readInstant(cell: string): string {
  let instant = instants.get(cell);
  if (instant === undefined) {
    instant = toUtc(cell);
    if (instants.size >= 10_000) instants.clear();
    instants.set(cell, instant);
  }
  return instant;
}

function toUtc(cell: string): string {
  const match = ISO_INSTANT.exec(cell);
  if (match === null) throw new BadCell("it is not an ISO 8601 date and time such as 2024-09-01T00:00:00Z");
  const part = (index: number) => Number(match[index] ?? 0);
  const [year, month, day, hour, minute, second] = [part(1), part(2), part(3), part(4), part(5), part(6)];
  const local = new Date(Date.UTC(year, month - 1, day, hour, minute, second));
  const exists =
    local.getUTCMonth() === month - 1 &&
    local.getUTCDate() === day &&
    hour < 24 &&
    minute < 60 &&
    second < 60 &&
    part(8) < 15 &&
    part(9) < 60;
  if (!exists) throw new BadCell("there is no such date and time");
  if (year < 2000 || year > 2099) throw new BadCell("the year is not between 2000 and 2099");
  const offsetMinutes = (part(8) * 60 + part(9)) * (match[7] === "-" ? -1 : 1);
  return new Date(local.getTime() - offsetMinutes * 60_000).toISOString().replace(".000Z", "Z");
}

const tagSets = new Map<string, string | null>();

/**
 * A JSON object of tags: keys lose stray space at their ends, the last of equal keys counts, a number becomes text as it
 * is written and a nested value its JSON text. Anything else is null with the flag `tag_json_invalid`: a bad tag is no
 * reason to refuse a bill.
 */
function readTags(cell: string, flags: Set<string>): string | null {
  let tags = tagSets.get(cell);
  if (tags === undefined) {
    tags = flatObject(cell, numbersAsWritten);
    if (tagSets.size >= 5_000) tagSets.clear();
    if (cell.length < 1_000) tagSets.set(cell, tags);
  }
  if (tags === null) flags.add("tag_json_invalid");
  return tags;
}

/** As `readTags`, but numbers stay numbers; the flag is `sku_price_details_invalid`. */
function readDetails(cell: string, flags: Set<string>): string | null {
  const details = flatObject(cell);
  if (details === null) flags.add("sku_price_details_invalid");
  return details;
}

type Reviver = (key: string, value: unknown, context?: { source?: string }) => unknown;

const numbersAsWritten: Reviver = (_key, value, context) =>
  typeof value === "number" ? (context?.source ?? String(value)) : value;

function flatObject(cell: string, reviver?: Reviver): string | null {
  try {
    const parsed: unknown = JSON.parse(cell, reviver);
    if (typeof parsed !== "object" || parsed === null || Array.isArray(parsed)) return null;
    const entries = Object.entries(parsed).map(([key, value]) => [plain(key).trim(), scalar(value)]);
    return JSON.stringify(Object.fromEntries(entries));
  } catch {
    return null;
  }
}

function scalar(value: unknown): unknown {
  if (typeof value === "object" && value !== null) return plain(JSON.stringify(value));
  return typeof value === "string" ? plain(value) : value;
}

/** jsonb takes neither NUL nor half a surrogate pair, and JSON text can spell both. */
function plain(text: string): string {
  return text.replace(CONTROL_CHARACTERS, "").toWellFormed();
}

/** A zone. Some exports put the list price here: the value is kept and flagged `availability_zone_not_a_zone`. */
function readZone(cell: string, flags: Set<string>): string {
  if (DECIMAL.test(cell)) flags.add("availability_zone_not_a_zone");
  return readText(cell, flags);
}

function oneOf(...allowed: string[]): CellReader {
  return (cell) => {
    if (!allowed.includes(cell)) throw new BadCell(`it is not one of ${allowed.join(", ")}`);
    return cell;
  };
}

/** FOCUS fixes the spelling, exports do not keep to it: `Usage-based` is `Usage-Based`. */
function oneOfAnyCase(...allowed: string[]): CellReader {
  const spelled = new Map(allowed.map((each) => [each.toLowerCase(), each]));
  return (cell) => {
    const known = spelled.get(cell.toLowerCase());
    if (known === undefined) throw new BadCell(`it is not one of ${allowed.join(", ")}`);
    return known;
  };
}

function readCurrency(cell: string): string {
  if (!/^[A-Z]{3}$/.test(cell)) throw new BadCell("it is not a currency code of ISO 4217 such as USD");
  return cell;
}

const READER_BY_NAME: Record<string, CellReader> = {
  ChargeCategory: oneOf("Usage", "Purchase", "Tax", "Credit", "Adjustment"),
  ChargeFrequency: oneOfAnyCase("One-Time", "Recurring", "Usage-Based"),
  BillingCurrency: readCurrency,
  AvailabilityZone: readZone,
  Tags: readTags,
};

const READER_BY_TYPE: Record<FocusColumn["type"], CellReader> = {
  text: readText,
  numeric: readDecimal,
  timestamptz: readInstant,
  jsonb: readDetails,
};
