// Stands in for C++20's <format> where the standard library has none yet (GCC before 13).
// Covers what MLX's C interface asks for: `{}` fields, each printed with `operator<<`.
#pragma once
#if __has_include(<format>)
#include <format>
#else
#include <sstream>
#include <string>
#include <string_view>

namespace std {

inline void ashlar_format_into(ostringstream& out, string_view text) {
  out << text;
}

template <typename First, typename... Rest>
void ashlar_format_into(
    ostringstream& out,
    string_view text,
    const First& first,
    const Rest&... rest) {
  const auto field = text.find("{}");
  out << text.substr(0, field);
  if (field == string_view::npos) {
    return;
  }
  out << first;
  ashlar_format_into(out, text.substr(field + 2), rest...);
}

template <typename... Args>
string format(string_view text, const Args&... args) {
  ostringstream out;
  ashlar_format_into(out, text, args...);
  return out.str();
}

} // namespace std
#endif
