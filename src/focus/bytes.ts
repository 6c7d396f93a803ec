// The bytes of an import file: opened, unpacked, and recognised where they are not what we read.
import { type FileHandle, open, stat } from "node:fs/promises";
import { basename } from "node:path";
import { pipeline } from "node:stream";
import { createGunzip } from "node:zlib";
import { AppError } from "../errors.ts";

const CHUNK_BYTES = 262_144;
const GZIP = Buffer.from([0x1f, 0x8b]);

/** Packed bytes that cannot be unpacked to their end. The message completes "line N: …". */
export class BrokenGzip extends Error {}

/**
 * The bytes of a file, unpacked where the first two say gzip, whatever its name says. Throws `focus_invalid` when there
 * is no such file or it may not be read, `BrokenGzip` when the packed data is cut or damaged. `onBytes` is shown the
 * bytes as they stand in the file.
 */
export async function* bytesOf(path: string, onBytes?: (chunk: Buffer) => void): AsyncGenerator<Buffer> {
  const handle = await openFile(path);
  try {
    const { buffer } = await handle.read(Buffer.alloc(2), 0, 2, 0);
    const stream = handle.createReadStream({ start: 0, highWaterMark: CHUNK_BYTES, autoClose: false });
    const isGzip = buffer.equals(GZIP);
    const bytes = shown(stream, onBytes);
    yield* isGzip ? pipeline(bytes, createGunzip({ chunkSize: CHUNK_BYTES }), () => {}) : bytes;
  } catch (error) {
    const code = error instanceof Error && "code" in error ? String(error.code) : "";
    if (!code.startsWith("Z_")) throw error;
    const reason = code === "Z_BUF_ERROR" ? "the gzip data ends too early" : "the gzip data is damaged";
    throw new BrokenGzip(reason, { cause: error });
  } finally {
    await handle.close();
  }
}

async function* shown(
  stream: AsyncIterable<Buffer>,
  onBytes: ((chunk: Buffer) => void) | undefined,
): AsyncGenerator<Buffer> {
  for await (const chunk of stream) {
    onBytes?.(chunk);
    yield chunk;
  }
}

async function openFile(path: string): Promise<FileHandle> {
  let reason = "it is not a file but a folder or a device";
  let cause: unknown;
  try {
    if ((await stat(path)).isFile()) return await open(path);
  } catch (error) {
    cause = error;
    const code = error instanceof Error && "code" in error ? String(error.code) : String(error);
    reason =
      { ENOENT: "there is no such file", EACCES: "it may not be read" }[code] ??
      `it cannot be read (${code})`;
  }
  throw new AppError("focus_invalid", {
    message: `${path}: ${reason}.`,
    detail: { file: basename(path), reason },
    cause,
  });
}

const FORMATS_BY_FIRST_BYTES: [string, Buffer][] = [
  ["Parquet", Buffer.from("PAR1")],
  ["a zip archive or an Excel workbook (xlsx)", Buffer.from("PK\x03\x04")],
  ["an old Excel workbook (xls)", Buffer.from([0xd0, 0xcf, 0x11, 0xe0])],
  ["PDF", Buffer.from("%PDF")],
  ["gzip inside gzip", GZIP],
  ["Zstandard", Buffer.from([0x28, 0xb5, 0x2f, 0xfd])],
  ["bzip2", Buffer.from("BZh")],
  ["Avro", Buffer.from("Obj\x01")],
  ["ORC", Buffer.from("ORC")],
];

/** What a file is that is not CSV in UTF-8, by its first bytes; undefined when it may be. */
export function foreignFormat(head: Buffer): string | undefined {
  const format = FORMATS_BY_FIRST_BYTES.find(([, magic]) => head.subarray(0, magic.length).equals(magic));
  if (format !== undefined) return format[0];
  if (isUtf16(head)) return "UTF-16";
  const text = head
    .toString("utf8", 0, 64)
    .replace(/^\uFEFF/, "")
    .trimStart();
  if (text.startsWith("<")) return "HTML or XML";
  if (text.startsWith("{") || text.startsWith("[")) return "JSON";
  return undefined;
}

/** By its byte order mark, or by a NUL in each of the first pairs of bytes: letters below U+0100. */
function isUtf16(head: Buffer): boolean {
  const mark = head.subarray(0, 2).toString("hex");
  if (mark === "fffe" || mark === "feff") return true;
  const start = head.subarray(0, 64);
  const nulsAt = (offset: 0 | 1) => start.filter((byte, index) => index % 2 === offset && byte === 0).length;
  return start.length >= 4 && Math.max(nulsAt(0), nulsAt(1)) >= Math.floor(start.length / 2);
}
