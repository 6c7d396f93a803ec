// What may be sent to a model, and the most that it can cost: bytes bound tokens.
import { z } from "zod";
import { AppError } from "../errors.ts";
import { parseJson } from "../json.ts";

/**
 * What a run, a provider and a hold agree to send. Fields that bytes cannot price (tools, files, n) are not
 * in it.
 */
const ChatRequest = z
  .strictObject({
    model: z.string().min(1),
    messages: z
      .array(
        z.strictObject({ role: z.enum(["system", "developer", "user", "assistant"]), content: z.string() }),
      )
      .min(1),
    max_tokens: z.int().min(1).optional(),
    max_completion_tokens: z.int().min(1).optional(),
    response_format: z.record(z.string(), z.unknown()).optional(),
    temperature: z.number().optional(),
    top_p: z.number().optional(),
    seed: z.int().optional(),
  })
  .refine((body) => body.max_tokens !== undefined || body.max_completion_tokens !== undefined, {
    message: "max_tokens bounds the answer and must be sent",
    path: ["max_tokens"],
  });

/** A body and its bounds, in tokens. */
export type BoundedRequest = {
  body: string;
  model: string;
  inputTokensBound: number;
  maxOutputTokens: number;
};

/** Reads a body and writes it anew, so that what is priced is what is sent: a key that came twice is gone. */
export function readRequest(body: unknown): BoundedRequest {
  const parsed = ChatRequest.safeParse(parseJson(body));
  if (!parsed.success) {
    const faults = parsed.error.issues.map((issue) => `${issue.path.join(".")}: ${issue.message}`);
    throw new AppError("invalid_request", { detail: { faults }, hint: "Send only what a budget can bound." });
  }
  const request = parsed.data;
  const text = JSON.stringify(request);
  return {
    body: text,
    model: request.model,
    inputTokensBound: inputTokensBound(text, request.messages.length),
    maxOutputTokens: Math.max(request.max_tokens ?? 0, request.max_completion_tokens ?? 0),
  };
}

/** Tokens that a provider may add for each message: role and separators, 3 to 4 in OpenAI's own counting. */
export const MESSAGE_TOKENS = 16;
/**
 * Tokens that a provider may add to each request: a system text of its own, and the opening of the answer.
 */
export const REQUEST_TOKENS = 256;

/**
 * The most input tokens that a request of this JSON text can be billed for. A token of a byte-level BPE
 * stands for at least one byte (Radford et al., "Language Models are Unsupervised Multitask Learners", 2.2),
 * so bytes bound tokens whatever the vocabulary. SentencePiece may apply NFKC first, which can lengthen
 * (U+FDFA is 3 bytes, then 33), so the longer of both counts. JSON's own quoting is counted too: it only
 * makes the bound wider.
 */
export function inputTokensBound(body: string, messages: number): number {
  return textTokensBound(body) + REQUEST_TOKENS + messages * MESSAGE_TOKENS;
}

/**
 * The most tokens that a text, or a JSON text, can become: its UTF-8 bytes, or those of its NFKC form where that
 * is longer. Takes time linear in the text.
 */
export function textTokensBound(text: string): number {
  const bytes = Buffer.byteLength(text);
  if (bytes === text.length) return bytes; // ASCII is its own form
  // The letter of an escape must not melt into marks behind it: in "\r\u0323\u0304" it would hide a byte.
  return Math.max(bytes, foldedBytes(text.replaceAll(/\\["\\bfnrt]/g, "  ")));
}

/** To sort n marks on one letter takes n^2 steps (a megabyte of them 40 s), so no more than this is folded at once. */
const PIECE = 512;
/**
 * How much shorter the forms of two pieces can be than that of both: at most one letter on each side has taken up
 * marks that it does not take in the whole, which saves 6 bytes at most (Hangul, 9 to 3).
 */
const SEAM_BYTES = 16;

/** The bytes of the NFKC form, or a few more. A seam before an ASCII character, which nothing melts into, is exact. */
function foldedBytes(text: string): number {
  let bytes = 0;
  for (let from = 0; from < text.length; ) {
    const { at, exact } = seamAfter(text, from);
    bytes += Buffer.byteLength(text.slice(from, at).normalize("NFKC")) + (exact ? 0 : SEAM_BYTES);
    from = at;
  }
  return bytes;
}

function seamAfter(text: string, from: number): { at: number; exact: boolean } {
  const end = from + PIECE;
  if (end >= text.length) return { at: text.length, exact: true };
  for (let at = end; at > from; at -= 1) if (text.charCodeAt(at) < 0x80) return { at, exact: true };
  const halved = /[\ud800-\udbff]/.test(text.charAt(end - 1));
  return { at: halved ? end - 1 : end, exact: false };
}
