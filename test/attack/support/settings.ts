// What any session may set, and what changes how SQL is read, computed or told.

/** None of them needs a right. */
export const HOSTILE_SETTINGS: string[] = [
  "set standard_conforming_strings = off; set backslash_quote = on; set escape_string_warning = off",
  "set transform_null_equals = on; set array_nulls = off",
  "set datestyle = 'SQL, DMY'; set intervalstyle = 'sql_standard'; set timezone = 'Pacific/Kiritimati'",
  "set bytea_output = 'escape'; set extra_float_digits = -15; set xmlbinary = 'hex'; set xmloption = 'document'",
  "set search_path = tenant, app, pg_temp; set quote_all_identifiers = on",
  "set check_function_bodies = off; set plan_cache_mode = force_generic_plan; set from_collapse_limit = 1",
  "set enable_seqscan = off; set enable_indexscan = off; set enable_bitmapscan = off; set jit = off",
  "set statement_timeout = 0; set lock_timeout = 0; set idle_in_transaction_session_timeout = 0",
  "set default_transaction_isolation = 'serializable'; set synchronous_commit = off",
];
