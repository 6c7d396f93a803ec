// Reads a cost export in FOCUS CSV, plain or gzip, as batches of rows for `app.cost_import_add`. Memory does not grow
// with the file: one chunk and one batch are held. The first thing wrong ends the reading, by file, line and column.
import { basename } from "node:path";
import { CsvError, type InfoRecord, type Parser, parse } from "csv-parse";
import { AppError } from "./errors.ts";
import { BrokenGzip, bytesOf, foreignFormat } from "./focus/bytes.ts";
import { type FocusVersion, REQUIRED_COLUMNS } from "./focus/columns.ts";
import { type Header, readHeader } from "./focus/header.ts";
import { type Place, refusal } from "./focus/refusal.ts";
import { rowLiteral } from "./focus/rows.ts";

/** Rows as composite literals of `app.cost_line_cells`, and the newest FOCUS version whose columns the file has. */
export type Batch = { version: FocusVersion; rows: string[] };

const BATCH_ROWS = 2_000;
const BATCH_CHARACTERS = 8_000_000;
const ROW_MAX_CHARACTERS = 1_000_000;

/**
 * Yields the rows of a FOCUS 1.0 to 1.2 file, at most 2,000 at a time. Throws `focus_invalid` at the first row that
 * cannot be taken; batches yielded before it are good, so a caller shows nothing until the last one has come.
 * `onBytes` is shown the bytes of the file as they are read, packed or not.
 */
export async function* readFocus(path: string, onBytes?: (chunk: Buffer) => void): AsyncGenerator<Batch> {
  const reader = new FocusReader(basename(path));
  try {
    for await (const chunk of bytesOf(path, onBytes)) {
      await reader.write(chunk);
      while (reader.hasBatch) yield reader.take();
    }
  } catch (error) {
    throw error instanceof BrokenGzip ? await reader.cutShort(error) : error;
  }
  await reader.end();
  while (reader.hasRows) yield reader.take();
}

/** Takes bytes, collects rows, and knows at each moment which line it is on. */
class FocusReader {
  readonly #file: string;
  readonly #parser: Parser;
  readonly #decoder = new TextDecoder("utf-8", { fatal: true });
  #begun = false;
  #isUtf8 = true;
  #header: Header | undefined;
  #rows: string[] = [];
  #characters = 0;
  /** Where the next record begins. */
  #line = 1;
  /** What the parser had counted at the last record. */
  #counted = { lines: 0, empty_lines: 0, records: 0 };

  constructor(file: string) {
    this.#file = file;
    this.#parser = parse({
      bom: true,
      skip_empty_lines: true,
      record_delimiter: ["\r\n", "\n", "\r"],
      max_record_size: ROW_MAX_CHARACTERS,
      on_record: (cells: string[], info: InfoRecord) => this.#onRecord(cells, info),
    });
    this.#parser.on("error", () => {}); // each write reports its own
  }

  get hasBatch(): boolean {
    return this.#rows.length >= BATCH_ROWS || this.#characters >= BATCH_CHARACTERS;
  }

  get hasRows(): boolean {
    return this.#rows.length > 0;
  }

  take(): Batch {
    const rows = this.#rows.splice(0, BATCH_ROWS);
    this.#characters = this.#rows.reduce((sum, row) => sum + row.length, 0);
    return { version: this.#header?.version ?? "1.0", rows };
  }

  async write(chunk: Buffer): Promise<void> {
    if (!this.#begun) this.#refuseForeignFormat(chunk);
    this.#begun = true;
    this.#noteUtf8(() => this.#decoder.decode(chunk, { stream: true }));
    await this.#parsed((done) => this.#parser.write(chunk, done));
  }

  async end(): Promise<void> {
    this.#noteUtf8(() => this.#decoder.decode());
    await this.#parsed((done) => this.#parser.end(done));
    if (this.#header === undefined) throw refusal(this.#place(), "the file is empty");
    if (this.#parser.info.records === 1) throw refusal(this.#place(), "the file has a header and no rows");
  }

  /** What to throw when unpacking fails: at the row that was cut, or after the last whole one. */
  async cutShort(cause: BrokenGzip): Promise<AppError> {
    const place = await this.end().then(
      () => this.#place(),
      (cut: unknown) => (cut instanceof AppError ? (cut.detail as Place) : this.#place()),
    );
    return refusal({ file: this.#file, line: place.line, column: place.column }, cause.message, { cause });
  }

  /** Called by the parser for each record, in order. Null: nothing is passed on, the rows are collected here. */
  #onRecord(cells: string[], info: InfoRecord): null {
    const { line, next } = this.#linesOf(cells, info);
    if (this.#header === undefined) {
      this.#header = readHeader(cells, { file: this.#file, line });
    } else {
      const row = rowLiteral(this.#header, cells, { file: this.#file, line, isUtf8: this.#isUtf8 });
      this.#rows.push(row);
      this.#characters += row.length;
    }
    this.#line = next;
    this.#counted = info;
    return null;
  }

  /** The parser counts where a record ends, and a `\r\n` inside quotes twice; an error should name where it begins. */
  #linesOf(cells: string[], info: InfoRecord): { line: number; next: number } {
    const blank = info.empty_lines - this.#counted.empty_lines;
    const line = this.#line + blank;
    const isOneLine = info.lines - this.#counted.lines === blank + 1;
    const breaks = isOneLine ? 0 : cells.join().split(/\r\n|\n|\r/).length - 1;
    return { line, next: line + breaks + 1 };
  }

  /** Where reading stands: the line after the last whole record, and by default the first column. */
  #place(line = this.#line, column = 0): Place {
    const names = this.#header?.columns.map((each) => each.name) ?? REQUIRED_COLUMNS;
    return { file: this.#file, line, column: names[Math.min(column, names.length - 1)] ?? "" };
  }

  #refuseForeignFormat(head: Buffer): void {
    const format = foreignFormat(head);
    if (format === undefined) return;
    const hint =
      format === "UTF-16" ? "Save the file as UTF-8." : "Export it as FOCUS in CSV, plain or gzip.";
    throw refusal(this.#place(), `the file is not FOCUS in CSV, it looks like ${format}`, { hint });
  }

  /** Only notes that bytes are wrong. The parser turns them into U+FFFD and meets them in a cell, whose place it knows. */
  #noteUtf8(decode: () => string): void {
    try {
      if (this.#isUtf8) decode();
    } catch {
      this.#isUtf8 = false;
    }
  }

  async #parsed(feed: (done: (error?: Error | null) => void) => void): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    feed((error) => (error ? reject(error) : resolve()));
    await promise.catch((error: unknown) => {
      throw error instanceof CsvError ? this.#malformed(error) : error;
    });
  }

  /** The parser's own complaints, at the line where the row begins and the column where it stopped. */
  #malformed(error: CsvError): AppError {
    const reached = Array.isArray(error["record"]) ? error["record"].length - 1 : Number(error["column"]);
    const line = this.#line + this.#parser.info.empty_lines - this.#counted.empty_lines;
    return refusal(this.#place(line, reached), this.#complaint(error), { cause: error });
  }

  #complaint(error: CsvError): string {
    switch (error.code) {
      case "CSV_QUOTE_NOT_CLOSED":
        return "the row is cut: a quote is opened and never closed";
      case "CSV_RECORD_INCONSISTENT_FIELDS_LENGTH": {
        const fields = Array.isArray(error["record"]) ? error["record"].length : 0;
        const wanted = this.#header?.columns.length ?? 0;
        return `${fields < wanted ? "the row is cut: it" : "the row"} has ${fields} fields and the header ${wanted}`;
      }
      case "CSV_MAX_RECORD_SIZE":
        return "the row is longer than 1,000,000 characters; perhaps a quote is opened and never closed";
      case "CSV_INVALID_CLOSING_QUOTE":
      case "INVALID_OPENING_QUOTE":
        return "a quote stands inside the value; write it twice, and the value in quotes";
      default:
        return error.message;
    }
  }
}
