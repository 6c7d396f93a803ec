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
 * The most tokens that a text can become: its UTF-8 bytes, or those of its NFKC form where that is longer.
 */
export function textTokensBound(text: string): number {
  return Math.max(Buffer.byteLength(text), Buffer.byteLength(text.normalize("NFKC")));
}
