// The most that a chat completion of any client can be billed for, in tokens, without a tokenizer; what has no
// bound is refused by name.
import { z } from "zod";
import { AppError } from "../errors.ts";
import { inputTokensBound } from "./request.ts";

/** The most answer tokens that are asked for where the caller sets no limit. */
export const DEFAULT_MAX_TOKENS = 4_096;
/**
 * Tokens that a provider may add as soon as a request has tools. Anthropic lists up to 530 of them by model
 * ("Tool use", pricing).
 */
export const TOOLS_TOKENS = 1_024;
/** Tokens that a provider may add for each tool, around what it was given. */
export const TOOL_TOKENS = 64;
/**
 * The most that one image counts for. The dearest documented one is gpt-4o-mini's: 2,833 tokens and 5,667 for
 * each of at most 8 tiles, 48,169 together (OpenAI, "Images and vision").
 */
export const IMAGE_TOKENS = 49_152;
/** Nothing that is sent to a model in earnest is nested deeper, and a stack ends somewhere. */
const DEPTH_MAX = 64;

/**
 * Fields that cost nothing beyond their bytes, which are counted as if a model read them. One that is not here
 * may cost, and is refused.
 */
export const FREE_FIELDS: ReadonlySet<string> = new Set([
  "frequency_penalty",
  "function_call",
  "logit_bias",
  "logprobs",
  "metadata",
  "min_p",
  "parallel_tool_calls",
  "presence_penalty",
  "prompt_cache_key",
  "reasoning_effort",
  "repetition_penalty",
  "response_format",
  "safety_identifier",
  "seed",
  "stop",
  "store",
  "stream",
  "stream_options",
  "temperature",
  "thinking", // its budget is part of max_tokens
  "tool_choice",
  "top_k",
  "top_logprobs",
  "top_p",
  "user",
  "verbosity",
]);

/** Fields that cost, and are priced below. */
const PRICED_FIELDS = new Set([
  "functions",
  "max_completion_tokens",
  "max_tokens",
  "messages",
  "modalities",
  "model",
  "n",
  "service_tier",
  "tools",
]);

const MESSAGE_FIELDS = new Set([
  "annotations",
  "cache_control",
  "content",
  "function_call",
  "name",
  "prefix",
  "reasoning_content",
  "refusal",
  "role",
  "tool_call_id",
  "tool_calls",
]);

/** Why there is no bound, for what clients do send; of any other field no bound is known. */
const WHY: Record<string, string> = {
  audio: "Audio has no bound in bytes.",
  conversation: "It makes the provider add messages that are not in the request.",
  file: "A file is read by the provider; its tokens are not bounded by what is sent.",
  input_audio: "Audio has no bound in bytes.",
  prediction: "Tokens of a prediction are billed beside those of the answer.",
  previous_response_id: "It makes the provider add messages that are not in the request.",
  prompt: "A stored prompt is not in the request.",
  web_search_options: "What a search finds is billed as input.",
};

const Tokens = z.int().min(1).max(100_000_000).nullish();
const Part = z.looseObject({
  type: z.string(),
  text: z.string().nullish(),
  image_url: z.looseObject({ url: z.string() }).nullish(),
});
const Message = z.looseObject({
  role: z.enum(["system", "developer", "user", "assistant", "tool", "function"]),
  content: z.union([z.string(), z.array(Part)]).nullish(),
});
const Chat = z.looseObject({
  model: z.string().min(1).max(200),
  messages: z.array(Message).min(1),
  tools: z.array(z.looseObject({ type: z.string() })).nullish(),
  functions: z.array(z.looseObject({})).nullish(),
  n: z.int().min(1).max(128).nullish(),
  max_tokens: Tokens,
  max_completion_tokens: Tokens,
  response_format: z.looseObject({}).nullish(),
  modalities: z.array(z.string()).nullish(),
  service_tier: z.string().nullish(),
});
type Chat = z.infer<typeof Chat>;

/** The tiers whose prices the ledger tells apart, by their names on the wire. `auto` would be any of them. */
const TIERS: Record<string, "standard" | "flex" | "priority"> = {
  default: "standard",
  standard: "standard",
  flex: "flex",
  priority: "priority",
};

/** A chat completion and its bounds in tokens; `maxOutputTokens` is that of all its `answers` together. */
export type Bound = {
  request: Readonly<Record<string, unknown>>;
  model: string;
  serviceTier: "standard" | "flex" | "priority";
  inputTokensBound: number;
  maxOutputTokens: number;
  answers: number;
  /** Images in the messages. Their tokens are in `inputTokensBound`; a price by the image is another matter. */
  images: number;
};

/**
 * The bound of a body that `JSON.parse` has read: of a key that came twice it has the last, and so has what
 * `bodyWithin` writes, which is what must be sent. Input: the UTF-8 bytes of all JSON text, or of its NFKC form
 * where that is longer, and what a provider may add to a request, a message, a tool or an image. Output: `n`
 * times the limit of the answer, `DEFAULT_MAX_TOKENS` where the caller sets none. Takes time linear in the
 * body. Throws `unbounded_request` with the field, `invalid_request`.
 */
export function boundOf(body: unknown): Bound {
  refuseDepth(body, DEPTH_MAX);
  if (typeof body !== "object" || body === null || Array.isArray(body)) throw invalid([": not an object"]);
  for (const [name, value] of Object.entries(body)) {
    if (!FREE_FIELDS.has(name) && !PRICED_FIELDS.has(name)) refuseUnlessNull(name, name, value);
  }
  const parsed = Chat.safeParse(body);
  if (!parsed.success) {
    throw invalid(parsed.error.issues.map((issue) => `${issue.path.join(".")}: ${issue.message}`));
  }
  const chat = body as Chat; // as it came: a parser may drop what would be sent
  if (chat.modalities?.some((each) => each !== "text")) throw unbounded("modalities", WHY["audio"]);
  for (const [nth, tool] of (chat.tools ?? []).entries()) refuseServerTool(tool.type, nth);
  for (const [nth, message] of chat.messages.entries()) refuseUnboundedMessage(message, nth);

  const answers = chat.n ?? 1;
  const limit = limitOf(chat);
  return {
    request: body as Record<string, unknown>,
    model: chat.model,
    serviceTier: tierOf(chat.service_tier),
    inputTokensBound: inputOf(chat),
    maxOutputTokens: answers * limit,
    answers,
    images: imagesIn(chat),
  };
}

/**
 * The JSON text to send, which always limits its answers: to what was asked for, or to the `granted` tokens of
 * a hold that was given less (at least one for each answer).
 */
export function bodyWithin(bound: Bound, granted = bound.maxOutputTokens): string {
  const each = Math.floor(Math.min(granted, bound.maxOutputTokens) / bound.answers);
  if (!(each >= 1)) throw new Error(`no answer fits into ${granted} tokens`);
  const { request } = bound;
  const given = LIMITS.filter((name) => (request[name] ?? null) !== null);
  const limits = given.length === 0 ? ["max_tokens"] : given;
  const own = limits.map((name) => [name, Math.min(Number(request[name] ?? each), each)]);
  return JSON.stringify({ ...request, ...Object.fromEntries(own) });
}

const LIMITS = ["max_tokens", "max_completion_tokens"];

/** Where both limits are given, the higher one: which of them a provider reads is its own affair. */
function limitOf({ max_tokens, max_completion_tokens }: Chat): number {
  return Math.max(max_tokens ?? 0, max_completion_tokens ?? 0) || DEFAULT_MAX_TOKENS;
}

function tierOf(name: string | null | undefined): Bound["serviceTier"] {
  const tier = TIERS[name ?? "default"];
  if (tier === undefined || !Object.hasOwn(TIERS, name ?? "default")) {
    throw unbounded("service_tier", "Name the tier: default, flex or priority.");
  }
  return tier;
}

function inputOf(chat: Chat): number {
  const tools = [...(chat.tools ?? []), ...(chat.functions ?? [])];
  const around = tools.length === 0 ? 0 : TOOLS_TOKENS + tools.length * TOOL_TOKENS;
  const indents = indentOf(tools, 0) + indentOf(chat.response_format, 0);
  const text = JSON.stringify({ ...chat, messages: chat.messages.map(withoutImages) });
  const bytes = inputTokensBound(text, chat.messages.length) + separatorsIn(text);
  return bytes + around + indents + imagesIn(chat) * IMAGE_TOKENS;
}

/** An image is counted as one, not by its bytes. */
function withoutImages(message: Chat["messages"][number]): unknown {
  if (!Array.isArray(message.content)) return message;
  const content = message.content.map((part) =>
    part.type === "image_url" ? { ...part, image_url: null } : part,
  );
  return { ...message, content };
}

/** Templates write JSON anew, the arguments of a call too, with a space behind each comma and colon. */
function separatorsIn(text: string): number {
  let count = 0;
  for (const each of [",", ":"]) {
    for (let at = text.indexOf(each); at >= 0; at = text.indexOf(each, at + 1)) count += 1;
  }
  return count;
}

/** Templates write tools and schemas as indented JSON: the bytes that this adds, at four spaces a level. */
function indentOf(value: unknown, depth: number): number {
  if (typeof value !== "object" || value === null) return 0;
  let bytes = 4 * depth + 2;
  for (const each of Object.values(value)) bytes += 4 * (depth + 1) + 2 + indentOf(each, depth + 1);
  return bytes;
}

function partsOf({ content }: Chat["messages"][number]): z.infer<typeof Part>[] {
  return Array.isArray(content) ? content : [];
}

function imagesIn({ messages }: Chat): number {
  return messages.flatMap(partsOf).filter((part) => part.type === "image_url").length;
}

// What is refused.

function refuseServerTool(type: string, nth: number): void {
  if (type === "function" || type === "custom") return;
  // Also with a maximum of uses: that bounds its fee, not what its results add to the input.
  throw unbounded(`tools.${nth}`, "The provider runs this tool, and bills what it finds as input.");
}

function refuseUnboundedMessage(message: Chat["messages"][number], nth: number): void {
  const path = `messages.${nth}`;
  for (const [name, value] of Object.entries(message)) {
    if (!MESSAGE_FIELDS.has(name)) refuseUnlessNull(`${path}.${name}`, name, value);
  }
  for (const [at, part] of partsOf(message).entries()) {
    const where = `${path}.content.${at}`;
    if (part.type === "image_url") refuseRemoteImage(part.image_url?.url, where);
    else if (part.type !== "text" && part.type !== "refusal") throw unbounded(where, WHY[part.type]);
    // It is left out of the text that is counted.
    else if ((part.image_url ?? null) !== null) throw unbounded(`${where}.image_url`, undefined);
  }
}

function refuseRemoteImage(url: string | undefined, where: string): void {
  if (url !== undefined && /^data:image\/(png|jpeg|jpg|gif|webp);base64,/i.test(url.slice(0, 64))) return;
  throw unbounded(where, "The provider fetches it. Send the image itself: data:image/png;base64,…");
}

function refuseUnlessNull(path: string, name: string, value: unknown): void {
  if (value !== null && value !== undefined) {
    throw unbounded(path, Object.hasOwn(WHY, name) ? WHY[name] : undefined);
  }
}

function refuseDepth(value: unknown, left: number): void {
  if (typeof value !== "object" || value === null) return;
  if (left === 0) throw invalid([`: nested deeper than ${DEPTH_MAX}`]);
  for (const each of Object.values(value)) refuseDepth(each, left - 1);
}

function unbounded(field: string, why = "Nothing bounds what this would cost."): AppError {
  return new AppError("unbounded_request", {
    message: "What this request can cost has no bound.",
    detail: { reason: "unbounded_request", field },
    hint: why,
  });
}

function invalid(faults: string[]): AppError {
  return new AppError("invalid_request", { detail: { faults }, hint: "Send a chat completion." });
}
