//go:build !linux

package main

var floors []filler
