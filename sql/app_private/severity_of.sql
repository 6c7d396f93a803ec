create or replace function app_private.severity_of(monthly_amount numeric) returns text
language sql
immutable
parallel safe
return case
  when monthly_amount >= 10000 then 'critical'
  when monthly_amount >= 2000 then 'high'
  when monthly_amount >= 300 then 'medium'
  when monthly_amount >= 30 then 'low'
  else 'info' end;

comment on function app_private.severity_of is
  'How bad an amount of money a month is: from 30 low, 300 medium, 2,000 high, 10,000 critical, in any currency.';
